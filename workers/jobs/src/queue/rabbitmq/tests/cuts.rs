//! Tests of connections that break.

use std::time::Instant;

use tokio::task::JoinHandle;

use super::*;

/// TCP relay between client and broker that can cut their connections.
struct Relay {
    port: u16,
    pairs: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Relay {
    async fn to(upstream: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pairs = Arc::<Mutex<Vec<JoinHandle<()>>>>::default();
        let accepted = pairs.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = tokio::net::TcpStream::connect(&upstream).await.unwrap();
                accepted.lock().unwrap().push(tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }));
            }
        });
        Self { port, pairs }
    }

    fn cut(&self) {
        for pair in self.pairs.lock().unwrap().drain(..) {
            pair.abort();
        }
    }
}

async fn relayed() -> (Relay, RabbitSettings) {
    let mut url = url::Url::parse(&url()).unwrap();
    let relay = Relay::to(format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5672))).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(relay.port)).unwrap();
    (relay, settings(url.into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn reconnects_within_5_s_of_a_cut() {
    let (relay, settings) = relayed().await;
    let server = Server::with(settings).await;
    send_to(&*server.queue, Lane::Items, &message("held")).await;
    let mut consumer = server.queue.consumer(&Lane::Items.into()).await;
    let held = soon(consumer.next()).await;
    relay.cut();
    let since = Instant::now();
    let again = soon(consumer.next()).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!((again.message.id.as_str(), again.redeliveries), ("held", 1));
    assert_eq!(held.ack().await, Settled::Lost);
    assert_eq!(again.ack().await, Settled::Confirmed);
    // The cut also affected the publisher's connection.
    let sent = server.queue.send(&Lane::Items.into(), &message("after")).await;
    if sent.is_err() {
        send_to(&*server.queue, Lane::Items, &message("after")).await;
    }
    assert_eq!(soon(consumer.next()).await.message.id, "after");
    assert!(server.queue.reconnects() >= 1);
    server.close().await;
}

/// Every confirmed message is delivered, however often the connections are cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn cuts_lose_no_confirmed_message() {
    const MESSAGES: usize = 200;
    let (relay, settings) = relayed().await;
    let server = Server::with(RabbitSettings { delivery_limit: 1000, ..settings }).await;
    let (arrived, mut arrivals) = unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (queue, arrived) = (server.queue.clone(), arrived.clone());
        tasks.spawn(async move {
            let mut consumer = queue.consumer(&Lane::Items.into()).await;
            loop {
                let delivery = consumer.next().await;
                let _ = arrived.send(delivery.message.id.clone());
                delivery.ack().await;
            }
        });
    }
    tasks.spawn(async move {
        loop {
            sleep(Duration::from_millis(700)).await;
            relay.cut();
        }
    });
    for number in 0..MESSAGES {
        while server.queue.send(&Lane::Items.into(), &message(&number.to_string())).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    }
    let mut distinct = std::collections::BTreeSet::new();
    while distinct.len() < MESSAGES {
        distinct.extend(soon(arrivals.recv()).await);
    }
    tasks.shutdown().await;
    server.close().await;
}
