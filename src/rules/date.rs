//! HTTP dates (RFC 9110 §5.6.7): the three formats exactly, in any case, the weekday's name not
//! compared with the date.

/// Unix seconds of an HTTP date; what lies before 1970 is 0. `wall` (Unix seconds) settles the
/// century of the two-digit form: a year that would be more than 50 years ahead is the last one
/// past with these digits.
pub fn parse(value: &[u8], wall: u64) -> Option<u64> {
    let (day, rest) = word(value);
    let secs = match (day.len(), rest) {
        (3, [b',', b' ', rest @ ..]) => fixdate(rest),
        (6..=9, [b',', b' ', rest @ ..]) => rfc850(rest, wall),
        (3, [b' ', rest @ ..]) => asctime(rest),
        _ => None,
    };
    // A leap second may be one too many.
    secs.map(|secs| secs.min(LATEST))
}

/// The end of year 9999, in Unix seconds.
const LATEST: u64 = 253_402_300_799;

/// The preferred form (IMF-fixdate) of Unix seconds, up to the end of year 9999.
pub fn format(secs: u64) -> [u8; 29] {
    let secs = secs.min(LATEST);
    let (days, of_day) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = 3 * ((days + 4) % 7) as usize;
    out[..3].copy_from_slice(&b"SunMonTueWedThuFriSat"[weekday..weekday + 3]);
    two(&mut out, 5, day);
    let name = 3 * (month as usize - 1);
    out[8..11].copy_from_slice(&MONTHS[name..name + 3]);
    two(&mut out, 12, year / 100);
    two(&mut out, 14, year % 100);
    two(&mut out, 17, of_day / 3_600);
    two(&mut out, 20, of_day / 60 % 60);
    two(&mut out, 23, of_day % 60);
    out
}

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// `06 Nov 1994 08:49:37 GMT`
fn fixdate(rest: &[u8]) -> Option<u64> {
    let [
        d1,
        d2,
        b' ',
        m @ ..,
        b' ',
        y1,
        y2,
        y3,
        y4,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        z1,
        z2,
        z3,
    ] = rest
    else {
        return None;
    };
    let year = number(&[*y1, *y2, *y3, *y4])?;
    gmt(&[*z1, *z2, *z3])?;
    unix(
        year,
        month(m)?,
        number(&[*d1, *d2])?,
        clock([*h1, *h2, *n1, *n2, *s1, *s2])?,
    )
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(rest: &[u8], wall: u64) -> Option<u64> {
    let [
        d1,
        d2,
        b'-',
        m @ ..,
        b'-',
        y1,
        y2,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        z1,
        z2,
        z3,
    ] = rest
    else {
        return None;
    };
    gmt(&[*z1, *z2, *z3])?;
    let (month, day) = (month(m)?, number(&[*d1, *d2])?);
    let time = clock([*h1, *h2, *n1, *n2, *s1, *s2])?;
    let this_year = civil(wall / 86_400).0;
    let mut year = this_year - this_year % 100 + number(&[*y1, *y2])?;
    while year > this_year + 50 {
        year -= 100;
    }
    while year + 50 <= this_year {
        year += 100;
    }
    let at = unix(year, month, day, time);
    // exactly 50 years ahead by the year alone: the rest of the date decides
    if year == this_year + 50 && at > unix_same_day(wall, 50) {
        unix(year - 100, month, day, time)
    } else {
        at
    }
}

/// `Nov  6 08:49:37 1994`
fn asctime(rest: &[u8]) -> Option<u64> {
    let [
        m1,
        m2,
        m3,
        b' ',
        d1,
        d2,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        y1,
        y2,
        y3,
        y4,
    ] = rest
    else {
        return None;
    };
    let tens = if *d1 == b' ' { b'0' } else { *d1 };
    let year = number(&[*y1, *y2, *y3, *y4])?;
    unix(
        year,
        month(&[*m1, *m2, *m3])?,
        number(&[tens, *d2])?,
        clock([*h1, *h2, *n1, *n2, *s1, *s2])?,
    )
}

/// The letters at the start, and what follows them.
fn word(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value
        .iter()
        .position(|b| !b.is_ascii_alphabetic())
        .unwrap_or(value.len());
    value.split_at(end)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |n, d| {
        d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0'))
    })
}

/// 1 to 12.
fn month(name: &[u8]) -> Option<u64> {
    let at = MONTHS
        .chunks(3)
        .position(|m| m.eq_ignore_ascii_case(name))?;
    Some(at as u64 + 1)
}

fn gmt(zone: &[u8]) -> Option<()> {
    zone.eq_ignore_ascii_case(b"GMT").then_some(())
}

/// Seconds of the day; a leap second counts as the next one.
fn clock([h1, h2, m1, m2, s1, s2]: [u8; 6]) -> Option<u64> {
    let (h, m, s) = (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?);
    (h < 24 && m < 60 && s <= 60).then_some(h * 3_600 + m * 60 + s)
}

fn unix(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day == 0 || day > length {
        return None;
    }
    if year < 1970 {
        return Some(0);
    }
    Some(days(year, month, day) * 86_400 + of_day)
}

/// The same day and time `years` on, as a bound for comparing.
fn unix_same_day(wall: u64, years: u64) -> Option<u64> {
    let (year, month, day) = civil(wall / 86_400);
    Some(days(year + years, month, day) * 86_400 + wall % 86_400)
}

/// Days from 1970-01-01 to a date from then on, in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // years that begin in March put the leap day last
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// Year, month and day of a day counted from 1970-01-01: the inverse of [`days`].
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn two(out: &mut [u8], at: usize, n: u64) {
    out[at] = b'0' + (n / 10 % 10) as u8;
    out[at + 1] = b'0' + (n % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 6 November 1994, 08:49:37: the RFC's own example.
    const EXAMPLE: u64 = 784_111_777;
    /// 21 November 2026, 02:40:00.
    const WALL: u64 = 1_795_228_800;

    #[test]
    fn rfc9110_5_6_7_three_formats() {
        for value in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun Nov 06 08:49:37 1994",
        ] {
            assert_eq!(parse(value.as_bytes(), WALL), Some(EXAMPLE), "{value}");
        }
    }

    #[test]
    fn rfc9111_4_2_any_case_and_weekday_unchecked() {
        for value in [
            "SUN, 06 NOV 1994 08:49:37 gmt",
            "Mon, 06 nov 1994 08:49:37 GMT",
            "monday, 06-nOv-94 08:49:37 Gmt",
            "fri nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(value.as_bytes(), WALL), Some(EXAMPLE), "{value}");
        }
    }

    #[test]
    fn rfc9110_5_6_7_nothing_but_the_three() {
        for value in [
            "",
            "0",
            "-1",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            " Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun,06 Nov 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 November 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 2025 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 1994 GMT",
            "1994-11-06T08:49:37Z",
            "784111777",
        ] {
            assert_eq!(parse(value.as_bytes(), WALL), None, "{value:?}");
        }
    }

    #[test]
    fn rfc9110_5_6_7_two_digit_years_within_fifty() {
        for (value, year) in [
            ("94", 1994),
            ("26", 2026),
            ("27", 2027),
            ("75", 2075),
            ("76", 2076),
            ("77", 1977),
            ("00", 2000),
        ] {
            let two = parse(
                format!("Sunday, 06-Nov-{value} 08:49:37 GMT").as_bytes(),
                WALL,
            );
            let four = parse(format!("Sun, 06 Nov {year} 08:49:37 GMT").as_bytes(), WALL);
            assert_eq!(two, four, "{value}");
        }
        // the same year, later in it, is more than fifty years ahead
        assert_eq!(
            parse(b"Sunday, 06-Dec-76 08:49:37 GMT", WALL),
            parse(b"Mon, 06 Dec 1976 08:49:37 GMT", WALL)
        );
    }

    #[test]
    fn dates_before_1970_are_the_past() {
        assert_eq!(parse(b"Sun, 06 Nov 1904 08:49:37 GMT", WALL), Some(0));
        assert_eq!(parse(b"Thu, 01 Jan 1970 00:00:00 GMT", WALL), Some(0));
    }

    #[test]
    fn rfc9110_6_6_1_date_is_written_as_imf_fixdate() {
        assert_eq!(&format(EXAMPLE), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&format(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&format(951_782_400), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(&format(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
        // Found by fuzzing.
        assert_eq!(parse(b"Fri, 31 Dec 9999 23:59:60 GMT", 0), Some(LATEST));
    }

    proptest! {
        #[test]
        fn a_written_date_reads_as_itself(secs in 0u64..=253_402_300_799) {
            prop_assert_eq!(parse(&format(secs), WALL), Some(secs));
        }

        #[test]
        fn reading_never_panics(value in proptest::collection::vec(any::<u8>(), 0..40), wall in 0u64..=253_402_300_799) {
            parse(&value, wall);
        }

        #[test]
        fn two_digit_years_never_lie_more_than_fifty_ahead(year in 0u64..100, wall in 200_000_000u64..10_000_000_000) {
            let value = format!("Sunday, 06-Nov-{year:02} 08:49:37 GMT");
            let at = parse(value.as_bytes(), wall).unwrap();
            prop_assert!(at <= wall + 50 * 31_622_400, "{} at {}", value, wall);
        }
    }
}
