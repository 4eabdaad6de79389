//! The files of deploy/ work. The servers run natively, without containers, but with the real files: the broker has the
//! rabbitmq.conf, the users and the definitions of deploy/rabbitmq/; a worker runs with config/production.toml, the
//! permissions of its user and the variables of deploy/.env.example.

use std::path::PathBuf;
use std::process::Command;

use jobs::queue::{Address, Lane, Route};
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use support::servers::{Kind, Server};

use super::world::{World, wait};
use crate::program::{binary, model, read_json, run};

const WORKER: (&str, &str) = ("flamingo-worker", "rights0of0a0worker");
const SUBMITTER: (&str, &str) = ("flamingo-submitter", "rights0of0a0submitter");
const SCALER: (&str, &str) = ("flamingo-scaler", "rights0of0keda");

/// Python program that sends a GET request as `user:password`.
const ASK: &str = r#"
import base64, sys, urllib.request as request
url, user = sys.argv[1:]
question = request.Request(url, headers={"authorization": "Basic " + base64.b64encode(user.encode()).decode()})
print(request.build_opener(request.ProxyHandler({})).open(question, timeout=10).read().decode())
"#;

struct Deployment {
    world: World,
    broker: Server,
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn ask(url: &str, (user, password): (&str, &str)) -> String {
    run(Command::new("python3").args(["-c", ASK, url]).arg(format!("{user}:{password}"))).exits(0).out
}

impl Deployment {
    fn new() -> Self {
        let conf = file("deploy/rabbitmq/rabbitmq.conf");
        let options = [("RABBITMQ_MANAGEMENT", "1"), ("RABBITMQ_CONF", conf.to_str().unwrap())];
        let broker = Server::start_with(Kind::RabbitMq, "deployed", &options);
        let world = World::with("deployed", &broker.env());
        Self { world, broker }
    }

    fn variable(&self, name: &str) -> String {
        let (_, value) =
            self.world.env.iter().rfind(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}"));
        value.clone()
    }

    /// Returns name and password of the administrator and the address in a variable of the broker.
    fn broker(&self, variable: &str) -> (String, String, String) {
        let env = self.broker.env();
        let (_, url) = env.iter().find(|(name, _)| name == variable).unwrap();
        let (user, place) = url.split_once("://").unwrap().1.split_once('@').unwrap();
        let (name, password) = user.split_once(':').unwrap();
        (name.into(), password.into(), place.into())
    }

    fn amqp(&self, (user, password): (&str, &str)) -> String {
        format!("amqp://{user}:{password}@{}", self.broker("FLAMINGO_TEST_AMQP").2)
    }

    fn set_up(&self) {
        let (admin, password, api) = self.broker("FLAMINGO_TEST_RABBITMQ_API");
        let mut setup = Command::new("python3");
        setup.arg(file("deploy/rabbitmq/setup.py")).env("RABBITMQ_API", format!("http://{api}"));
        setup.env("RABBITMQ_ADMIN_USER", admin).env("RABBITMQ_ADMIN_PASSWORD", password);
        setup.env("RABBITMQ_WORKER_PASSWORD", WORKER.1).env("RABBITMQ_SUBMITTER_PASSWORD", SUBMITTER.1);
        setup.env("RABBITMQ_SCALER_PASSWORD", SCALER.1);
        run(&mut setup).exits(0);
    }

    /// Opens a channel. The connection closes on drop.
    fn channel(&self, url: &str) -> (Connection, Channel) {
        self.world.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        })
    }

    /// Sends the request of KEDA that deploy/kubernetes/keda/keda.yaml describes.
    fn queue(&self, name: &str) -> Value {
        let (.., api) = self.broker("FLAMINGO_TEST_RABBITMQ_API");
        serde_json::from_str(&ask(&format!("http://{api}/api/queues/%2F/{name}"), SCALER)).unwrap()
    }

    /// Returns the environment of a worker: a value for each name of deploy/.env.example and no others.
    fn environment(&self) -> Vec<(String, String)> {
        let example = std::fs::read_to_string(file("deploy/.env.example")).unwrap();
        let (_, worker) = example.split_once("---- a worker ----").expect("a part for the worker");
        let value = |name: &str| match name {
            "FLAMINGO__QUEUE__URL" => self.amqp(WORKER),
            "FLAMINGO_MODEL" => model().display().to_string(),
            "FLAMINGO_LOG" => "info".into(),
            "FLAMINGO_LOG_FORMAT" => "text".into(),
            "OTEL_EXPORTER_OTLP_ENDPOINT" => String::new(),
            // The addresses of the servers of this test.
            _ => self.variable(name),
        };
        let names =
            worker.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        names.map(|(name, _)| (name.to_owned(), value(name))).collect()
    }
}

/// Checks that each user has only the permissions that its work needs.
fn check_rights(deployment: &Deployment) {
    let check_refused = |what: &str, error: lapin::Error| {
        let error = error.to_string();
        assert!(error.contains("refused for user"), "{what}: {error}");
    };
    let world = &deployment.world;
    let (_worker, worker) = deployment.channel(&deployment.amqp(WORKER));
    let made = worker.queue_declare("intruder".into(), QueueDeclareOptions::default(), FieldTable::default());
    check_refused("a worker makes a queue", world.block_on(made).unwrap_err());
    let (_submitter, submitter) = deployment.channel(&deployment.amqp(SUBMITTER));
    let taken = submitter.basic_get("flamingo.jobs".into(), BasicGetOptions::default());
    check_refused("a submitter takes a message", world.block_on(taken).unwrap_err());
}

/// Checks that an unacknowledged message counts for the scaler.
fn check_scaling(deployment: &Deployment) {
    let is = |all: u64, ready: u64| {
        wait(&format!("{all} messages, {ready} of them ready"), || {
            let queue = deployment.queue("flamingo.items");
            (queue["messages"] == all && queue["messages_ready"] == ready).then_some(queue)
        })
    };
    let (_connection, channel) = deployment.channel(&deployment.variable("FLAMINGO_TEST_AMQP"));
    let world = &deployment.world;
    let held = world.block_on(async {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        let _sent = channel
            .basic_publish("flamingo".into(), "items".into(), options, b"held", properties)
            .await
            .unwrap();
        loop {
            let options = BasicGetOptions { no_ack: false };
            if let Some(held) = channel.basic_get("flamingo.items".into(), options).await.unwrap() {
                return held;
            }
        }
    });
    let queue = is(1, 0);
    assert_eq!((&queue["name"], &queue["vhost"]), (&json!("flamingo.items"), &json!("/")));
    assert!(world.block_on(held.delivery.ack(BasicAckOptions::default())).unwrap());
    is(0, 0);
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn the_deployment_files_work() {
    let mut deployment = Deployment::new();
    deployment.set_up();
    // Compose repeats the setup at every start.
    deployment.set_up();
    check_rights(&deployment);
    check_scaling(&deployment);

    // Settings of the tests would override production.toml.
    let environment = deployment.environment();
    let world = &mut deployment.world;
    world.env.retain(|(name, _)| !name.starts_with("FLAMINGO__") && name != "FLAMINGO_LOG");
    world.env.extend(environment.iter().cloned());
    let production = file("config/production.toml");
    let flamingo = |command: &str| {
        let mut flamingo = Command::new(binary());
        flamingo.env_clear().envs(environment.iter().cloned());
        flamingo.arg(command).arg("--config").arg(&production);
        flamingo
    };
    run(&mut flamingo("migrate")).exits(0);
    // Port 9464 may be in use.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut worker = flamingo("work");
    let mut worker = world.spawn("worker", worker.arg("--set").arg(format!("status.address={free}")));
    worker.wait_for_log("worker started");
    // The health check of the image, and the probe of Kubernetes.
    run(Command::new(file("deploy/docker/live.sh")).arg(free.to_string())).exits(0);
    assert_eq!(ask(&format!("http://{free}/ready"), ("", "")).trim(), "ready");

    world.upload_clips(&[("a.mp4", "short"), ("b.webm", "vp8")]);
    world.set("FLAMINGO_CONFIG", production.to_str().unwrap());
    let submitter = deployment.amqp(SUBMITTER);
    let world = &mut deployment.world;
    world.set("FLAMINGO__QUEUE__URL", &submitter);
    world.submit(&[world.job("deployed", json!({}))]).exits(0);
    world.check_whole("deployed", "succeeded", 2, 0);
    // The worker has declared the queue of its model, which is all that it may declare.
    let name = read_json(&model().join("config.json"))["name"].as_str().unwrap().to_owned();
    world.submit(&[world.job("routed", json!({ "model": name }))]).exits(0);
    world.check_whole("routed", "succeeded", 2, 0);
    let of_model = Address { lane: Lane::Items, route: Some(Route::new(name)) };
    let of_model = format!("flamingo.{}", of_model.key());
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));
    for queue in ["flamingo.jobs", "flamingo.items", "flamingo.dead", &of_model] {
        wait(&format!("the end of {queue}"), || (deployment.queue(queue)["messages"] == 0).then_some(()));
    }
}
