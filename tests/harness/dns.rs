//! A DNS server of the test's own (RFC 1035), over UDP and TCP on one port: it says of each name what it is told to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::proxy::free_port;
use super::wire::PATIENCE;

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// Its addresses, of the kind that was asked for, and their TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// NXDOMAIN.
    NoSuchName,
    /// The name is there, and nothing else.
    Nothing,
    /// SERVFAIL.
    Fails,
    Silence,
}

pub struct Dns {
    pub address: SocketAddr,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    names: Mutex<HashMap<String, Says>>,
    asked: AtomicUsize,
    over: AtomicBool,
}

/// What fits into a packet; more comes over TCP (RFC 1035 §4.2.1).
const PACKET: usize = 512;
const A: u16 = 1;
const AAAA: u16 = 28;

impl Dns {
    /// A server that knows no name yet.
    pub fn start() -> Result<Dns, String> {
        let told = |e: std::io::Error| format!("dns: {e}");
        let address = free_port();
        let packets = UdpSocket::bind(address).map_err(told)?;
        let listener = TcpListener::bind(address).map_err(told)?;
        let dns = Dns {
            address,
            told: Arc::default(),
        };
        let over_udp = Arc::clone(&dns.told);
        thread::spawn(move || {
            let mut question = [0; 4096];
            while let Ok((length, from)) = packets.recv_from(&mut question) {
                if over_udp.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Some(answer) = over_udp.answer(&question[..length], PACKET) {
                    let _ = packets.send_to(&answer, from);
                }
            }
        });
        let over_tcp = Arc::clone(&dns.told);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over_tcp.over.load(Ordering::SeqCst) {
                    return;
                }
                let told = Arc::clone(&over_tcp);
                thread::spawn(move || serve(stream, &told));
            }
        });
        Ok(dns)
    }

    /// From now on this is said of a name.
    pub fn say(&self, name: &str, says: Says) {
        let mut names = self
            .told
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned(), says);
    }

    /// Questions that came.
    pub fn asked(&self) -> usize {
        self.told.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.told.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let wake = UdpSocket::bind((self.address.ip(), 0));
        let _ = wake.and_then(|socket| socket.send_to(&[0], self.address));
    }
}

/// Messages behind their lengths (RFC 1035 §4.2.2).
fn serve(mut stream: TcpStream, told: &Told) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = told.answer(&question, usize::from(u16::MAX)) else {
            continue;
        };
        let length = (answer.len() as u16).to_be_bytes();
        if stream.write_all(&[&length[..], &answer].concat()).is_err() {
            return;
        }
    }
}

impl Told {
    fn answer(&self, question: &[u8], most: usize) -> Option<Vec<u8>> {
        let (name, kind, end) = asked(question)?;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let says = names.get(&name).cloned().unwrap_or(Says::NoSuchName);
        drop(names);
        let (code, addresses, ttl) = match says {
            Says::Silence => return None,
            Says::Addresses(addresses, ttl) => (0, addresses, ttl),
            Says::Nothing => (0, Vec::new(), 0),
            Says::NoSuchName => (3, Vec::new(), 0),
            Says::Fails => (2, Vec::new(), 0),
        };
        let mut records = Vec::new();
        let mut count: u16 = 0;
        for address in addresses {
            let data = match address {
                IpAddr::V4(v4) if kind == A => v4.octets().to_vec(),
                IpAddr::V6(v6) if kind == AAAA => v6.octets().to_vec(),
                _ => continue,
            };
            // The name of the question, which stands at byte 12; class IN.
            records.extend_from_slice(&[0xc0, 12]);
            records.extend_from_slice(&kind.to_be_bytes());
            records.extend_from_slice(&1u16.to_be_bytes());
            records.extend_from_slice(&ttl.to_be_bytes());
            records.extend_from_slice(&(data.len() as u16).to_be_bytes());
            records.extend_from_slice(&data);
            count += 1;
        }
        let is_cut = end + records.len() > most;
        if is_cut {
            (count, records) = (0, Vec::new());
        }
        let mut answer = question[..2].to_vec();
        // An answer, cut or whole, to who wanted recursion, which is available.
        answer.push(0x81 | if is_cut { 2 } else { 0 });
        answer.push(0x80 | code);
        for number in [1, count, 0, 0] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
        answer.extend_from_slice(&question[12..end]);
        answer.extend_from_slice(&records);
        Some(answer)
    }
}

/// The name, the kind of record, and where the question ends.
fn asked(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
