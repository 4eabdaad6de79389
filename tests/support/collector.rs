//! An OpenTelemetry collector: receives spans over OTLP/HTTP and stores them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as wire, status::StatusCode};
use prost::Message;
use serde_json::Value;

/// Collector that listens until the process ends.
pub struct Collector {
    addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// Heads of all requests, joined.
    heads: String,
    bodies: Vec<u8>,
    spans: Vec<Span>,
}

/// Span as it was received.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: Value,
    pub name: String,
    pub kind: Kind,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    /// Empty for a root span.
    pub parent: Vec<u8>,
    pub attributes: BTreeMap<String, Value>,
    pub events: Vec<String>,
    pub failed: bool,
}

pub use wire::span::SpanKind as Kind;

impl Span {
    /// Returns an attribute, or null.
    pub fn attribute(&self, name: &str) -> Value {
        self.attributes.get(name).cloned().unwrap_or_default()
    }
}

impl Collector {
    /// # Panics
    /// Panics if no port is free.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no port is free");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let shared = taken.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = shared.clone();
                thread::spawn(move || answer(stream, &taken));
            }
        });
        Self { addr, taken }
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// Returns the request lines and headers of all requests.
    pub fn heads(&self) -> String {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).heads.clone()
    }

    /// Returns whether any body contains the bytes of `text`.
    pub fn received(&self, text: &str) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bodies.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

/// Answers the requests of one connection. Ignores a request that ends early.
fn answer(stream: TcpStream, taken: &Mutex<Taken>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP in protobuf");
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.heads.push_str(&head);
        taken.bodies.extend(&body);
        taken.spans.extend(spans(request));
        drop(taken);
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        )?;
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for spans in request.resource_spans {
        let resource = attributes(spans.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            found.push(Span {
                service: service.clone(),
                kind: span.kind(),
                failed: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                attributes: attributes(span.attributes),
                events: span.events.into_iter().map(|event| event.name).collect(),
            });
        }
    }
    found
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, Value> {
    pairs.into_iter().map(|pair| (pair.key, json(pair.value))).collect()
}

fn json(value: Option<AnyValue>) -> Value {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text.into(),
        Some(any_value::Value::BoolValue(is)) => is.into(),
        Some(any_value::Value::IntValue(number)) => number.into(),
        Some(any_value::Value::DoubleValue(number)) => number.into(),
        Some(any_value::Value::ArrayValue(list)) => {
            list.values.into_iter().map(|value| json(Some(value))).collect()
        }
        _ => Value::Null,
    }
}
