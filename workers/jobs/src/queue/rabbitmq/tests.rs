//! Contract suite on a real broker, and tests of broker errors.

use std::sync::Mutex;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;

use super::*;
use crate::Failure;
use crate::queue::contract::{
    Backend, DELIVERY_LIMIT, ROUTES, every_behaviour, message, routed, send_routed, send_to, soon,
};

mod cuts;

fn url() -> String {
    std::env::var("FLAMINGO_TEST_AMQP")
        .expect("FLAMINGO_TEST_AMQP names the broker to test with, as amqp://user:password@host:port/vhost")
}

/// Time from the declaration of a queue to its deletion. RabbitMQ 3.10 fails for all queues when one with dead-lettering is
/// deleted at once (`rabbit_fifo_dlx_sup` gives up).
const UNTIL_DELETED: Duration = Duration::from_millis(500);

/// Returns settings with unique names, so that tests can run concurrently.
fn settings(url: String) -> RabbitSettings {
    RabbitSettings {
        name: format!("test-{}", uuid::Uuid::now_v7().simple()),
        delivery_limit: DELIVERY_LIMIT,
        retry_delays: [200, 1000].map(Duration::from_millis).to_vec(),
        ..RabbitSettings::new(SecretUrl::new(url))
    }
}

struct Server {
    queue: Arc<RabbitQueue>,
    settings: RabbitSettings,
    admin: Connection,
    dead: Mutex<Vec<(Message, Failure)>>,
}

impl Server {
    async fn with(settings: RabbitSettings) -> Self {
        let admin = soon(Connection::connect(&url(), ConnectionProperties::default())).await.unwrap();
        let queue = Arc::new(RabbitQueue::open(settings.clone()).unwrap());
        Self { queue, settings, admin, dead: Mutex::default() }
    }

    /// Deletes a queue some time after its declaration.
    async fn delete_queue(&self, name: &str) {
        sleep(UNTIL_DELETED).await;
        let channel = self.admin.create_channel().await.unwrap();
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

async fn open() -> Server {
    Server::with(settings(url())).await
}

#[async_trait]
impl Backend for Server {
    fn queue(&self) -> Arc<dyn Queue> {
        self.queue.clone()
    }

    async fn dead(&self) -> Vec<(Message, Failure)> {
        let channel = self.admin.create_channel().await.unwrap();
        let options = BasicGetOptions { no_ack: true };
        while let Some(got) = channel.basic_get(self.settings.dead().into(), options).await.unwrap() {
            let mut delivery = got.delivery;
            let reason = reason(&delivery.properties);
            self.dead.lock().unwrap().push((wire::message(&mut delivery), reason));
        }
        self.dead.lock().unwrap().clone()
    }

    async fn reply_queue(&self, name: &str) -> UnboundedReceiver<Message> {
        let channel = self.admin.create_channel().await.unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut replies =
            channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await.unwrap();
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(mut delivery)) = replies.next().await {
                let _ = sender.send(wire::message(&mut delivery));
            }
            drop(channel);
        });
        receiver
    }

    fn unique(&self, name: &str) -> String {
        format!("{}.{name}", self.settings.name)
    }

    async fn close(self) {
        sleep(UNTIL_DELETED).await;
        let channel = self.admin.create_channel().await.unwrap();
        let Topology { exchanges, queues, .. } = topology(&self.settings);
        let routed = [Lane::Items, Lane::Urgent].map(|lane| ROUTES.map(|name| routed(lane, name)));
        let routed = routed.as_flattened().iter().map(|address| self.settings.queue(address));
        for name in queues.into_iter().map(|queue| queue.name).chain(routed) {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        }
        for exchange in exchanges {
            channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
    }
}

/// Returns our reason, or else the broker's.
fn reason(properties: &lapin::BasicProperties) -> Failure {
    let headers = properties.headers().clone().unwrap_or_default();
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    if headers.contains_key("x-reason-code") {
        return Failure::new(text("x-reason-code"), text("x-reason"));
    }
    Failure::new(text("x-first-death-reason"), String::new())
}

every_behaviour!(open, #[ignore = "needs RabbitMQ"]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn redeclares_a_deleted_queue() {
    let server = open().await;
    let mut consumer = server.queue.consumer(&Lane::Items.into()).await;
    let waiting = tokio::spawn(async move { consumer.next().await.message.id });
    send_to(&*server.queue, Lane::Jobs, &message("ready")).await;
    server.delete_queue(&server.settings.queue(&Lane::Items.into())).await;
    soon(async {
        while server.queue.send(&Lane::Items.into(), &message("after")).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(soon(waiting).await.unwrap(), "after");
    server.close().await;
}

/// The consumer of a route restores its queue too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn redeclares_a_deleted_queue_of_a_route() {
    let server = open().await;
    let address = routed(Lane::Items, ROUTES[0]);
    let mut consumer = server.queue.consumer(&address).await;
    let receiving = tokio::spawn(async move {
        for expected in ["before", "after"] {
            let delivery = consumer.next().await;
            assert_eq!(delivery.message.id, expected);
            delivery.ack().await;
        }
    });
    send_routed(&*server.queue, &address, &message("before")).await;
    server.delete_queue(&server.settings.queue(&address)).await;
    send_routed(&*server.queue, &address, &message("after")).await;
    soon(receiving).await.unwrap();
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn event_never_goes_to_a_queue_of_a_route() {
    let server = open().await;
    let address = routed(Lane::Items, ROUTES[0]);
    let mut consumer = server.queue.consumer(&address).await;
    let receiving = tokio::spawn(async move {
        for expected in ["first", "second"] {
            let delivery = consumer.next().await;
            assert_eq!(delivery.message.id, expected);
            delivery.ack().await;
        }
    });
    send_routed(&*server.queue, &address, &message("first")).await;
    let reply_to = Some(server.settings.queue(&address));
    let event = Event { topic: "job.failed".to_owned(), message: Message { reply_to, ..message("event") } };
    server.queue.publish_event(&event).await.unwrap();
    send_routed(&*server.queue, &address, &message("second")).await;
    soon(receiving).await.unwrap();
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn unroutable_message_is_an_error() {
    let server = open().await;
    server.queue.check().await.unwrap();
    server.delete_queue(&server.settings.queue(&Lane::Items.into())).await;
    let error = server.queue.send(&Lane::Items.into(), &message("a")).await.unwrap_err().to_string();
    assert!(error.contains("unroutable"), "{error}");
    send_to(&*server.queue, Lane::Items, &message("a")).await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn full_queue_refuses_messages() {
    let server = Server::with(RabbitSettings { max_length: Some(1), ..settings(url()) }).await;
    let mut refused = None;
    for number in 0..20 {
        refused = server.queue.send(&Lane::Items.into(), &message(&number.to_string())).await.err();
        if refused.is_some() {
            break;
        }
    }
    let error = refused.expect("the queue accepted more than max_length").to_string();
    assert!(error.contains("is full"), "{error}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn reports_a_queue_with_other_arguments() {
    let server = open().await;
    server.queue.check().await.unwrap();
    let other = RabbitSettings { delivery_limit: DELIVERY_LIMIT + 1, ..server.settings.clone() };
    let error = RabbitQueue::open(other).unwrap().check().await.unwrap_err().to_string();
    let expected = format!("queue {}.jobs exists with other arguments", server.settings.name);
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains("x-delivery-limit"), "{error}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn reports_missing_topology_without_declaring() {
    let settings = RabbitSettings { declare: false, ..settings(url()) };
    let error = RabbitQueue::open(settings.clone()).unwrap().check().await.unwrap_err().to_string();
    assert!(error.contains(&format!("exchange {} is not there", settings.name)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ"]
async fn wrong_password_error_hides_the_password() {
    let mut url = url::Url::parse(&url()).unwrap();
    url.set_password(Some("s3cret-word")).unwrap();
    let queue = RabbitQueue::open(settings(url.into())).unwrap();
    let error = queue.check().await.unwrap_err().to_string();
    assert!(error.contains("ACCESS_REFUSED") && !error.contains("s3cret-word"), "{error}");
}

#[tokio::test]
async fn unreachable_broker_error_hides_the_password() {
    // Nothing listens on port 9 (discard).
    let settings = RabbitSettings {
        publish_timeout: Duration::from_secs(3),
        ..settings("amqp://flamingo:s3cret-word@127.0.0.1:9".to_owned())
    };
    let queue = RabbitQueue::open(settings).unwrap();
    for error in [
        queue.check().await.unwrap_err(),
        queue.send(&Lane::Jobs.into(), &message("a")).await.unwrap_err(),
        queue.waiting(&Lane::Jobs.into()).await.unwrap_err(),
    ] {
        let error = format!("{error} {error:?}");
        assert!(error.contains("127.0.0.1:9") && !error.contains("s3cret-word"), "{error}");
    }
}

#[test]
fn bad_url_error_hides_the_password() {
    for bad in ["", "amqp", "http://u:s3cret-word@h", "u:s3cret-word@h", "amqp://u:s3cret-word@h:99999"] {
        let error = RabbitQueue::open(settings(bad.to_owned())).err().expect(bad);
        assert!(!format!("{error} {error:?}").contains("s3cret-word"), "{error}");
    }
}

#[test]
fn topology_has_the_documented_names() {
    let settings = RabbitSettings::new(SecretUrl::new("amqp://h"));
    let Topology { exchanges, queues, bindings } = topology(&settings);
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    let tiers = ["flamingo.retry.5s", "flamingo.retry.30s", "flamingo.retry.2m", "flamingo.retry.10m"];
    assert_eq!(names[..4], ["flamingo.jobs", "flamingo.items", "flamingo.urgent", "flamingo.dead"]);
    assert_eq!(names[4..], tiers);
    assert_eq!(exchanges.len(), 3 + tiers.len());
    for binding in &bindings {
        assert!(names.contains(&binding.queue.as_str()));
        assert!(exchanges.iter().any(|exchange| exchange.name == binding.exchange));
    }
    let items = serde_json::to_value(&queues[1]).unwrap();
    let expected = serde_json::json!({
        "name": "flamingo.items",
        "arguments": {
            "x-queue-type": "quorum",
            "x-delivery-limit": 5,
            "x-dead-letter-exchange": "flamingo.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    });
    assert_eq!(items, expected);
}

#[test]
fn chooses_the_shortest_sufficient_retry_tier() {
    let queue = RabbitQueue::open(RabbitSettings::new(SecretUrl::new("amqp://h"))).unwrap();
    for (after, tier) in [
        (0, "flamingo.retry.5s"),
        (5, "flamingo.retry.5s"),
        (6, "flamingo.retry.30s"),
        (9999, "flamingo.retry.10m"),
    ] {
        let chosen = queue.broker.tier(Duration::from_secs(after)).map(|tier| tier.name.as_str());
        assert_eq!(chosen, Some(tier));
    }
}
