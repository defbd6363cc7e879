//! Where an address is, by a database in the MaxMind DB format.

use std::net::IpAddr;

use maxminddb::{LookupResult, PathElement, Reader, WithinOptions};

use super::expression::Whereabouts;

/// Records that are looked through for what a database should know.
const TRIED: usize = 1000;

/// A database, as it lay on disk.
pub struct Database {
    reader: Reader<Vec<u8>>,
}

impl Database {
    /// One that knows countries.
    ///
    /// # Errors
    /// It is none, or knows no countries; for people.
    pub fn country(file: Vec<u8>) -> Result<Database, String> {
        Database::that(file, "countries", |found| country(found).is_some())
    }

    /// One that knows the networks' operators.
    ///
    /// # Errors
    /// It is none, or knows no operators; for people.
    pub fn asn(file: Vec<u8>) -> Result<Database, String> {
        Database::that(file, "operators", |found| asn(found).is_some())
    }

    fn that(file: Vec<u8>, what: &str, knows: fn(&Found<'_>) -> bool) -> Result<Database, String> {
        let reader = Reader::from_source(file).map_err(|error| error.to_string())?;
        let mut records = reader
            .networks(WithinOptions::default())
            .map_err(|error| error.to_string())?
            .take(TRIED);
        let is_right = records.any(|record| record.is_ok_and(|found| knows(&found)));
        drop(records);
        match is_right {
            true => Ok(Database { reader }),
            false => Err(format!("a database that knows no {what}")),
        }
    }

    /// Two letters (ISO 3166-1), if it knows them.
    pub fn country_of(&self, address: IpAddr) -> Option<[u8; 2]> {
        country(&self.reader.lookup(address.to_canonical()).ok()?)
    }

    /// 0 if it does not know it.
    pub fn asn_of(&self, address: IpAddr) -> u32 {
        let found = self.reader.lookup(address.to_canonical());
        found.ok().and_then(|found| asn(&found)).unwrap_or(0)
    }
}

type Found<'d> = LookupResult<'d, Vec<u8>>;

fn country(found: &Found<'_>) -> Option<[u8; 2]> {
    let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
    let code = found.decode_path::<&str>(&path).ok()??;
    code.as_bytes().try_into().ok()
}

fn asn(found: &Found<'_>) -> Option<u32> {
    let path = [PathElement::Key("autonomous_system_number")];
    found.decode_path::<u32>(&path).ok()?
}

/// What the databases there are say of an address.
pub fn locate(country: Option<&Database>, asn: Option<&Database>, address: IpAddr) -> Whereabouts {
    Whereabouts {
        country: country.and_then(|database| database.country_of(address)),
        asn: asn.map_or(0, |database| database.asn_of(address)),
    }
}

#[cfg(test)]
#[path = "../../tests/harness/mmdb.rs"]
pub mod mmdb;

#[cfg(test)]
mod tests {
    use super::mmdb::{Record, database};
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_where_its_longest_network_is() {
        let file = database(&[
            ("192.0.2.0/24", Record::Country("DE")),
            ("192.0.2.128/25", Record::Country("AT")),
            ("2001:db8::/32", Record::Country("CH")),
            ("198.51.100.0/24", Record::Nothing),
            ("203.0.113.0/24", Record::Country("nowhere")),
        ]);
        let database = Database::country(file).unwrap();
        for (address, country) in [
            ("192.0.2.1", Some(*b"DE")),
            ("192.0.2.200", Some(*b"AT")),
            ("::ffff:192.0.2.1", Some(*b"DE")),
            ("2001:db8::7", Some(*b"CH")),
            ("2001:db9::7", None),
            ("198.51.100.1", None),
            // Not two letters.
            ("203.0.113.1", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(database.country_of(ip(address)), country, "{address}");
            assert_eq!(database.asn_of(ip(address)), 0);
        }
    }

    #[test]
    fn an_operator_has_a_number() {
        let asns = database(&[("192.0.2.0/24", Record::Asn(64_500))]);
        let asns = Database::asn(asns).unwrap();
        let countries = database(&[("192.0.2.0/24", Record::Country("DE"))]);
        let countries = Database::country(countries).unwrap();
        let found = locate(Some(&countries), Some(&asns), ip("192.0.2.1"));
        assert_eq!((found.country, found.asn), (Some(*b"DE"), 64_500));
        let found = locate(Some(&countries), Some(&asns), ip("::1"));
        assert_eq!(found, Whereabouts::default());
        assert_eq!(locate(None, None, ip("192.0.2.1")), Whereabouts::default());
    }

    #[test]
    fn what_is_no_database_or_another_is_told() {
        let told = |made: Result<Database, String>| made.err().expect("an error");
        let countries = || database(&[("10.0.0.0/8", Record::Country("DE"))]);
        assert!(told(Database::asn(countries())).contains("no operators"));
        let asns = database(&[("10.0.0.0/8", Record::Asn(1))]);
        assert!(told(Database::country(asns)).contains("no countries"));
        assert!(told(Database::country(Vec::new())).len() > 10);
        let whole = countries();
        for len in 0..whole.len() {
            // Cut short, or one byte of it wrong: an error, or an answer.
            let _ = Database::country(whole[..len].to_vec());
            let mut broken = whole.clone();
            broken[len] ^= 0x55;
            if let Ok(database) = Database::country(broken) {
                let _ = database.country_of(ip("10.1.2.3"));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut tail in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..300) {
            let mut file = database(&[("10.0.0.0/8", Record::Country("DE"))]);
            let at = at.min(file.len());
            file.truncate(at);
            file.append(&mut tail);
            if let Ok(database) = Database::country(file) {
                let _ = database.country_of(ip("10.1.2.3"));
            }
        }
    }
}
