//! A small DNS server with a zone that changes and manners that are told, over UDP and TCP on one port of loopback.
//!
//! It writes its messages by hand: what is wrong with one is wrong on purpose.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::expect::{PATIENCE, after, eventually};

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_NAME: u8 = 3;
const REFUSED: u8 = 5;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Good,
    /// Each answer comes behind one with another id, which leads elsewhere.
    Forged,
    /// Over UDP there is room for nothing.
    Truncated,
    /// It says nothing.
    Silent,
    /// It says nothing when asked for AAAA.
    SilentOnV6,
    /// It takes so long.
    Slow(Duration),
    /// SERVFAIL.
    Fails,
    /// REFUSED.
    Refuses,
    /// Bytes that are no message.
    Babbles,
}

/// A server that runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    zone: Mutex<Zone>,
    is_over: AtomicBool,
}

/// The data of records, and their TTL.
type Answer = (Vec<Vec<u8>>, u32);

struct Zone {
    manner: Manner,
    /// The data of records, by name and type, and their TTL.
    records: BTreeMap<(String, u16), Answer>,
    /// How often it was asked, by name and type; over TCP apart.
    asked: BTreeMap<(String, u16), usize>,
    asked_by_tcp: usize,
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

/// Starts a server that knows no name.
pub fn start() -> Server {
    let (tcp, udp) = eventually("a port for both", || {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
        Some((tcp, udp))
    });
    let address = tcp.local_addr().unwrap();
    let state = Arc::new(State {
        zone: Mutex::new(Zone {
            manner: Manner::Good,
            records: BTreeMap::new(),
            asked: BTreeMap::new(),
            asked_by_tcp: 0,
        }),
        is_over: AtomicBool::new(false),
    });
    let (by_udp, by_tcp) = (Arc::clone(&state), Arc::clone(&state));
    thread::spawn(move || serve_udp(&udp, &by_udp));
    thread::spawn(move || serve_tcp(&tcp, &by_tcp));
    Server { address, state }
}

impl Server {
    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.state.zone.lock().unwrap()
    }

    /// Changes its manners.
    pub fn is(&self, manner: Manner) {
        self.zone().manner = manner;
    }

    /// Gives a host these addresses, and no others.
    pub fn host(&self, name: &str, addresses: &[&str], ttl: u32) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(address) => v4.push(address.octets().to_vec()),
                IpAddr::V6(address) => v6.push(address.octets().to_vec()),
            }
        }
        let mut zone = self.zone();
        zone.records.insert((name.to_owned(), A), (v4, ttl));
        zone.records.insert((name.to_owned(), AAAA), (v6, ttl));
    }

    /// Gives a service these records: priority, weight, port, host.
    pub fn service(&self, name: &str, records: &[(u16, u16, u16, &str)], ttl: u32) {
        let data = records.iter().map(|&(priority, weight, port, host)| {
            let mut data: Vec<u8> = [priority, weight, port]
                .into_iter()
                .flat_map(u16::to_be_bytes)
                .collect();
            for label in host.split('.') {
                data.push(u8::try_from(label.len()).unwrap());
                data.extend(label.as_bytes());
            }
            data.push(0);
            data
        });
        let records = (data.collect(), ttl);
        self.zone().records.insert((name.to_owned(), SRV), records);
    }

    /// Takes a name away.
    pub fn forget(&self, name: &str) {
        self.zone().records.retain(|(known, _), _| known != name);
    }

    /// How often it was asked for the IPv4 addresses of a host.
    pub fn asked_for(&self, name: &str) -> usize {
        self.count(name, A)
    }

    fn count(&self, name: &str, kind: u16) -> usize {
        let asked = &self.zone().asked;
        asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }

    /// How often it was asked over TCP.
    pub fn asked_by_tcp(&self) -> usize {
        self.zone().asked_by_tcp
    }

    /// Waits until it has been asked for a host so many times more.
    #[track_caller]
    pub fn is_asked_again(&self, name: &str, times: usize) {
        let before = self.asked_for(name);
        let what = format!("{name} asked for {times} times");
        eventually(&what, || {
            (self.asked_for(name) >= before + times).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Both wait for something to come.
        drop(TcpStream::connect(self.address));
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[0], self.address);
        }
    }
}

fn serve_udp(socket: &UdpSocket, state: &Arc<State>) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Some(query) = Query::read(&buffer[..length]) else {
            continue;
        };
        let manner = state.zone.lock().unwrap().note(&query);
        let answer = || state.zone.lock().unwrap().answer(&query);
        let messages = match manner {
            Manner::Silent => Vec::new(),
            Manner::SilentOnV6 if query.kind == AAAA => Vec::new(),
            Manner::Forged => {
                let mut forged = query.message(NO_ERROR, &[vec![127, 0, 0, 66]], 60);
                forged[1] ^= 0xff;
                vec![forged, answer()]
            }
            Manner::Truncated => {
                let mut empty = query.message(NO_ERROR, &[], 0);
                empty[2] |= 0x02;
                vec![empty]
            }
            Manner::Slow(time) => {
                // The socket is duplicated: the next question does not wait.
                let (socket, late) = (socket.try_clone().unwrap(), answer());
                thread::spawn(move || {
                    after(time);
                    let _ = socket.send_to(&late, client);
                });
                Vec::new()
            }
            Manner::Fails => vec![query.message(SERVER_FAILURE, &[], 0)],
            Manner::Refuses => vec![query.message(REFUSED, &[], 0)],
            Manner::Babbles => vec![[&query.id[..], b"nonsense"].concat()],
            Manner::Good | Manner::SilentOnV6 => vec![answer()],
        };
        for message in messages {
            // Whoever asked may be gone.
            let _ = socket.send_to(&message, client);
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept() {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        let state = Arc::clone(state);
        thread::spawn(move || answer_tcp(stream, &state));
    }
}

/// Answers what comes on one connection, until the other side has closed it or is silent.
fn answer_tcp(mut stream: TcpStream, state: &State) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
        if stream.read_exact(&mut bytes).is_err() {
            return;
        }
        let Some(query) = Query::read(&bytes) else {
            return;
        };
        let answer = {
            let mut zone = state.zone.lock().unwrap();
            zone.note(&query);
            zone.asked_by_tcp += 1;
            zone.answer(&query)
        };
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        if stream.write_all(&[&length[..], &answer].concat()).is_err() {
            return;
        }
    }
}

impl Zone {
    fn note(&mut self, query: &Query) -> Manner {
        let key = (query.name.clone(), query.kind);
        *self.asked.entry(key).or_default() += 1;
        self.manner
    }

    fn answer(&self, query: &Query) -> Vec<u8> {
        if let Some((data, ttl)) = self.records.get(&(query.name.clone(), query.kind)) {
            return query.message(NO_ERROR, data, *ttl);
        }
        let mut names = self.records.keys();
        let code = match names.any(|(name, _)| *name == query.name) {
            true => NO_ERROR,
            false => NO_NAME,
        };
        query.message(code, &[], 0)
    }
}

/// A question as it came.
struct Query {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// The section of the question, as it stands.
    question: Vec<u8>,
}

impl Query {
    fn read(message: &[u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = message.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_lowercase());
            at += length;
        }
        let kind = message.get(at..at + 2)?.try_into().ok()?;
        Some(Self {
            id: message.get(..2)?.try_into().ok()?,
            name: labels.join("."),
            kind: u16::from_be_bytes(kind),
            question: message.get(12..at + 4)?.to_vec(),
        })
    }

    /// An answer with this code, and a record of what was asked for with each of `data`.
    fn message(&self, code: u8, data: &[Vec<u8>], ttl: u32) -> Vec<u8> {
        let count = u16::try_from(data.len()).unwrap().to_be_bytes();
        let mut message = self.id.to_vec();
        // A response to a query, recursion desired and available; one question.
        message.extend([0x81, 0x80 | code, 0, 1]);
        message.extend(count);
        message.extend([0; 4]);
        message.extend(&self.question);
        for data in data {
            // The name of the question.
            message.extend([0xc0, 0x0c]);
            message.extend(self.kind.to_be_bytes());
            message.extend([0, 1]);
            message.extend(ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(data);
        }
        message
    }
}
