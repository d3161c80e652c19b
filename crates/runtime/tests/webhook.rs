//! The webhook: what cannot be delivered is tried again, what is refused is given up, and nobody waits.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc,
};

use driftline_runtime::Webhook;

/// Answers requests with these codes, one each, and tells the body of every request.
fn receiver(codes: &'static [&'static str]) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (told, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for code in codes {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let request = String::from_utf8_lossy(&text).into_owned();
                if let Some((head, body)) = request.split_once("\r\n\r\n") {
                    let head = head.to_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    if body.len() >= length.parse().unwrap() {
                        told.send(body.to_owned()).unwrap();
                        break;
                    }
                }
            }
            write!(stream, "HTTP/1.1 {code}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    (url, bodies)
}

#[test]
fn a_receiver_that_fails_is_asked_again() {
    let (url, bodies) = receiver(&["503 Service Unavailable", "200 OK", "200 OK"]);
    let webhook = Webhook::start(url).unwrap();
    webhook.post("first");
    webhook.post("second");
    let heard: Vec<String> = bodies.iter().take(3).collect();
    assert_eq!(heard, ["first", "first", "second"]);
}

#[test]
fn a_body_that_is_refused_is_given_up() {
    let (url, bodies) = receiver(&["400 Bad Request", "200 OK"]);
    let webhook = Webhook::start(url).unwrap();
    webhook.post("wrong");
    webhook.post("right");
    let heard: Vec<String> = bodies.iter().take(2).collect();
    assert_eq!(heard, ["wrong", "right"]);
}

#[test]
fn what_waits_at_the_end_is_tried_once() {
    let (url, bodies) = receiver(&["200 OK"]);
    let webhook = Webhook::start(url).unwrap();
    webhook.post("last words");
    drop(webhook);
    assert_eq!(bodies.recv().unwrap(), "last words");
}
