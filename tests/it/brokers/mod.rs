//! The brokers that people have, each the real thing: the same walk at every one of them. `.ci/brokers` brings them and runs
//! these.

mod broker;
mod device;
mod kinds;
mod walk;

use walk::{Known, walk};

#[tokio::test]
#[ignore = "needs Mosquitto 2.1: .ci/brokers"]
async fn mosquitto_2_1_with_sqlite() {
    walk(kinds::mosquitto_2_1, Known { protocol: "5", durable: true, wildcards: true, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs NATS: .ci/brokers"]
async fn nats_2_9() {
    walk(kinds::nats_2_9, Known { protocol: "3.1.1", durable: true, wildcards: true, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs NATS: .ci/brokers"]
async fn nats_2_15() {
    walk(kinds::nats_2_15, Known { protocol: "3.1.1", durable: true, wildcards: true, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: .ci/brokers"]
async fn rabbitmq_3_10() {
    walk(kinds::rabbitmq_3_10, Known { protocol: "3.1.1", durable: false, wildcards: false, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: .ci/brokers"]
async fn rabbitmq_4_0() {
    walk(kinds::rabbitmq_4_0, Known { protocol: "5", durable: false, wildcards: false, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs aedes: .ci/brokers"]
async fn aedes() {
    walk(kinds::aedes, Known { protocol: "3.1.1", durable: false, wildcards: true, waits: true }).await;
}

#[tokio::test]
#[ignore = "needs amqtt: .ci/brokers"]
async fn amqtt() {
    walk(kinds::amqtt, Known { protocol: "3.1.1", durable: false, wildcards: true, waits: false }).await;
}
