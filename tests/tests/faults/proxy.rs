//! A proxy between clients and a broker that delays, cuts and loses.
//!
//! Kafka's answers name the broker that the client is to connect to; the proxy puts its own port there, so that clients
//! stay with it. Both directions are taken apart into frames: a length, then for a request its API key, version and
//! correlation id, for an answer the correlation id.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

/// The API key of the request that ends a transaction.
const END_TXN: u16 = 26;

/// What goes wrong at the moment.
#[derive(Default)]
pub struct Faults {
    /// Milliseconds that each frame takes on its way, give or take a quarter.
    pub delay_ms: AtomicU64,
    /// Whether every connection breaks at once and none is made.
    pub cut: AtomicBool,
    /// How many answers to EndTxn get lost with their connection.
    pub lose_end_txn: AtomicU32,
    /// How many answers to EndTxn come late, and by how much.
    pub late_end_txn: AtomicU32,
    pub late_by_ms: AtomicU64,
    live: Mutex<Vec<TcpStream>>,
    frames: AtomicU64,
}

impl Faults {
    /// Breaks every connection; none is made until [`Self::mend`].
    pub fn cut(&self) {
        self.cut.store(true, SeqCst);
        for stream in self.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.cut.store(false, SeqCst);
    }

    /// Takes one of a number of faults, if any is left.
    fn take(left: &AtomicU32) -> bool {
        left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn delay(&self) -> Duration {
        let delay = self.delay_ms.load(SeqCst);
        let spread = self.frames.fetch_add(1, SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Duration::from_millis(delay * 3 / 4 + spread % (delay / 2 + 1))
    }
}

/// Starts a proxy to a broker on this machine; returns its address and its faults. It lives as long as the test.
pub fn start(servers: &str) -> (String, Arc<Faults>) {
    let broker: u16 = servers.rsplit(':').next().unwrap().parse().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let faults = Arc::new(Faults::default());
    let shared = Arc::clone(&faults);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if shared.cut.load(SeqCst) {
                let _ = client.shutdown(Shutdown::Both);
                continue;
            }
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
            let own = |stream: &TcpStream| {
                stream.set_nodelay(true).unwrap();
                stream.try_clone().unwrap()
            };
            shared.live.lock().unwrap().extend([own(&client), own(&server)]);
            let marked = Arc::new(Marked::default());
            let there = (own(&client), own(&server), Arc::clone(&shared), Arc::clone(&marked));
            std::thread::spawn(move || pump(there.0, there.1, &there.2, |frame| requests(frame, &there.2, &there.3)));
            let faults = Arc::clone(&shared);
            std::thread::spawn(move || {
                pump(server, client, &faults, |frame| answers(frame, broker, port, &faults, &marked));
            });
        }
    });
    (format!("127.0.0.1:{port}"), faults)
}

/// Correlation ids whose answers get lost or come late.
#[derive(Default)]
struct Marked {
    lost: Mutex<BTreeSet<[u8; 4]>>,
    late: Mutex<BTreeSet<[u8; 4]>>,
}

/// What happens to a frame.
enum Fate {
    Pass,
    Late(Duration),
    Break,
}

fn requests(frame: &mut [u8], faults: &Faults, marked: &Marked) -> Fate {
    if let [high, low, _, _, a, b, c, d, ..] = *frame
        && u16::from_be_bytes([high, low]) == END_TXN
    {
        if Faults::take(&faults.lose_end_txn) {
            marked.lost.lock().unwrap().insert([a, b, c, d]);
        } else if Faults::take(&faults.late_end_txn) {
            marked.late.lock().unwrap().insert([a, b, c, d]);
        }
    }
    Fate::Pass
}

fn answers(frame: &mut [u8], broker: u16, port: u16, faults: &Faults, marked: &Marked) -> Fate {
    let correlation: [u8; 4] = frame[..4].try_into().unwrap();
    if marked.lost.lock().unwrap().remove(&correlation) {
        return Fate::Break;
    }
    let [named, ours] = [broker, port].map(|port| {
        let mut bytes = b"127.0.0.1".to_vec();
        bytes.extend(u32::from(port).to_be_bytes());
        bytes
    });
    // Names of brokers stand in small answers; records are left alone.
    if frame.len() < 65_536 {
        let places: Vec<usize> =
            frame.windows(named.len()).enumerate().filter(|(_, w)| *w == named).map(|(i, _)| i).collect();
        for place in places {
            frame[place..place + ours.len()].copy_from_slice(&ours);
        }
    }
    if marked.late.lock().unwrap().remove(&correlation) {
        return Fate::Late(Duration::from_millis(faults.late_by_ms.load(SeqCst)));
    }
    Fate::Pass
}

/// Passes frames on in their order, each after its delay, until either side closes.
fn pump(mut from: TcpStream, mut to: TcpStream, faults: &Faults, mut judge: impl FnMut(&mut [u8]) -> Fate) {
    let ends = [from.try_clone().unwrap(), to.try_clone().unwrap()];
    let (frames, waiting) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (due, frame) in waiting {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write_all(&frame).is_err() {
                    return;
                }
            }
        });
        let mut length = [0; 4];
        while from.read_exact(&mut length).is_ok() {
            let mut frame = length.to_vec();
            frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
            if from.read_exact(&mut frame[4..]).is_err() {
                break;
            }
            let late = match judge(&mut frame[4..]) {
                Fate::Pass => Duration::ZERO,
                Fate::Late(by) => by,
                Fate::Break => break,
            };
            if frames.send((Instant::now() + faults.delay() + late, frame)).is_err() {
                break;
            }
        }
        drop(frames);
        for end in ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    });
}
