//! What telemetry costs: records through a source, a pass-through stage and a sink, with telemetry
//! off and on (1 % of the records traced, metrics and traces sent by OTLP, and a Prometheus
//! endpoint). Rounds alternate, and each round with telemetry is compared with the one before it.
//!
//! ```text
//! cargo bench -p driftline-benches --bench telemetry [-- ROUNDS [RECORDS]]
//! ```
//!
//! The receiver that stands for a collector runs in this process, so its work is counted as well; it
//! reads requests and decodes nothing. Starting telemetry and sending the last of everything, once a run, do not count.

mod blobs;

use std::{
    env, future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Instant,
};

use blobs::{REGISTRY, plan};
use driftline_broker::{Broker, Embedded, EmbeddedConfig, Retention};
use driftline_pipeline::Plan;
use driftline_runtime::{Metrics, RunOptions, Telemetry, create_topics};

fn main() {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let rounds: usize = args.next().map_or(7, |arg| arg.parse().expect("a number of rounds"));
    let records: u64 = args.next().map_or(300_000, |arg| arg.parse().expect("a number of records"));
    let collector = receiver();
    let off = plan(records, "");
    let on = plan(
        records,
        &format!("[telemetry]\notlp = \"http://{collector}\"\nsampling = 0.01\nprometheus = \"127.0.0.1:0\""),
    );
    let (mut cpu, mut clock) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (without, with) = (run(&off), run(&on));
        // The first round fills caches.
        if round > 0 {
            cpu.push(with.cpu / without.cpu);
            clock.push(with.seconds / without.seconds);
            println!(
                "off {:5.2} µs CPU a record, {:7.0} records/s; on {:5.2} µs, {:7.0} records/s; CPU × {:.3}, time × {:.3}",
                without.cpu * 1e6 / records as f64,
                records as f64 / without.seconds,
                with.cpu * 1e6 / records as f64,
                records as f64 / with.seconds,
                with.cpu / without.cpu,
                with.seconds / without.seconds,
            );
        }
    }
    println!("median of {rounds} rounds: CPU × {:.3}, time × {:.3}", median(cpu), median(clock));
}

struct Took {
    cpu: f64,
    seconds: f64,
}

fn run(plan: &Plan) -> Took {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::temporary(EmbeddedConfig::default()).expect("a log"));
    create_topics(&*broker, plan, Retention { bytes: Some(64 << 20), ms: None }).expect("topics");
    let telemetry = Telemetry::start(plan).expect("telemetry starts").map(Arc::new);
    let options = RunOptions { telemetry: telemetry.clone(), ..RunOptions::default() };
    let metrics = Arc::new(Metrics::new(plan));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let run = driftline_runtime::run(plan, &REGISTRY, broker, metrics, options, future::pending());
    runtime.block_on(run).expect("the run ends well");
    let took = Took { cpu: cpu_seconds() - cpu, seconds: start.elapsed().as_secs_f64() };
    // Held until here: with its last handle it sends the last of everything.
    drop(telemetry);
    took
}

/// Takes every request and says that all is well.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || receive(stream));
        }
    });
    address
}

fn receive(stream: TcpStream) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        requests.read_exact(&mut vec![0; length]).ok()?;
        answers
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            .ok()?;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    cpu_time::ProcessTime::now().as_duration().as_secs_f64()
}
