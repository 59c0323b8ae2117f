//! The wire itself: that it does to an answer what a test says it does.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};
use tollgate::clock::Clock;

use crate::support::redis::Server;
use crate::support::tap::{Mode, Tap, To};
use crate::support::until;

/// What a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(300);

async fn connect(tap: &Tap) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let client = Client::open(tap.url()).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn count(connection: &mut MultiplexedConnection, name: &str) -> RedisResult<i64> {
    redis::cmd("INCR").arg(name).query_async(connection).await
}

#[tokio::test]
async fn it_passes_and_counts() {
    let server = Server::start().await;
    // One behind the other, to see both ways to a server.
    let far = Tap::start(To::Unix(server.socket())).await;
    let near = Tap::start(To::Tcp(far.address)).await;
    let mut connection = connect(&near).await.unwrap();
    let mut pipeline = redis::pipe();
    for _ in 0..100 {
        pipeline.incr("n", 1).ignore();
    }
    let nested = "return {1, {'two', false}, 3}";
    pipeline.cmd("EVAL").arg(nested).arg(0);
    let (answer,): (Value,) = pipeline.query_async(&mut connection).await.unwrap();
    let inner = vec![Value::BulkString(b"two".to_vec()), Value::Nil];
    let whole = vec![Value::Int(1), Value::Array(inner), Value::Int(3)];
    assert_eq!(answer, Value::Array(whole));
    // Longer than what is read in one go.
    let long = "x".repeat(1 << 20);
    let stored = redis::cmd("SET").arg("long").arg(&long).to_owned();
    stored.exec_async(&mut connection).await.unwrap();
    let got: String = redis::cmd("GET")
        .arg("long")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(got, long);
    let of = |tap: &Tap, name: &str| tap.commands().get(name).copied();
    for tap in [&near, &far] {
        assert_eq!(of(tap, "INCRBY"), Some(100));
        assert_eq!(of(tap, "EVAL"), Some(1));
        assert_eq!((of(tap, "SET"), of(tap, "GET")), (Some(1), Some(1)));
        assert_eq!((tap.lost(), tap.connections()), (0, (1, 1)));
        assert!(tap.bytes() > 2 << 20);
    }
    drop(connection);
    let closed = async || (far.connections().1 == 0).then_some(());
    until("the connection is closed through both", closed).await;
}

#[tokio::test]
async fn it_tells_what_others_publish() {
    let server = Server::start().await;
    let tap = Tap::start(To::Unix(server.socket())).await;
    let mut listener = Client::open(tap.url())
        .unwrap()
        .get_async_pubsub()
        .await
        .unwrap();
    listener.subscribe("news").await.unwrap();
    assert_eq!(server.command::<i64>(&["PUBLISH", "news", "hello"]), 1);
    use futures_util::StreamExt as _;
    let message = listener.on_message().next().await.unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "hello");
}

#[tokio::test]
async fn an_answer_is_lost_after_the_command_was_carried_out() {
    let server = Server::start().await;
    let tap = Tap::start(To::Unix(server.socket())).await;
    let mut connection = connect(&tap).await.unwrap();
    assert_eq!(count(&mut connection, "n").await.unwrap(), 1);
    tap.lose_next(1);
    count(&mut connection, "n").await.unwrap_err();
    assert_eq!(server.command::<i64>(&["GET", "n"]), 2);
    // The connection was reset, and another one is as good as ever.
    count(&mut connection, "n").await.unwrap_err();
    let mut connection = connect(&tap).await.unwrap();
    assert_eq!(count(&mut connection, "n").await.unwrap(), 3);

    // Each second one, on a connection that stays and says nothing any more; what follows on it is carried out as well.
    let (every, reset) = (2, false);
    tap.set(Mode::LoseAnswers { every, reset });
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(count(&mut connection, "n").await.is_ok());
    }
    assert_eq!(answers.iter().filter(|answered| **answered).count(), 1);
    assert_eq!(server.command::<i64>(&["GET", "n"]), 6);
    assert_eq!(tap.connections().0, 2);
}

#[tokio::test]
async fn what_stands_still_arrives_late_and_what_is_swallowed_never() {
    let server = Server::start().await;
    let tap = Tap::start(To::Unix(server.socket())).await;
    let mut connection = connect(&tap).await.unwrap();
    tap.set(Mode::Stall);
    count(&mut connection, "late").await.unwrap_err();
    assert_eq!(server.command::<Option<i64>>(&["GET", "late"]), None);
    tap.set(Mode::Pass);
    let arrived = async || server.command::<Option<i64>>(&["GET", "late"]);
    assert_eq!(until("it arrives", arrived).await, 1);

    let mut connection = connect(&tap).await.unwrap();
    tap.set(Mode::Swallow);
    count(&mut connection, "never").await.unwrap_err();
    connect(&tap).await.unwrap_err();
    tap.set(Mode::Pass);
    // What follows on it is carried out, and not answered.
    count(&mut connection, "after").await.unwrap_err();
    assert_eq!(server.command::<i64>(&["GET", "after"]), 1);
    assert_eq!(server.command::<Option<i64>>(&["GET", "never"]), None);
}

#[tokio::test]
async fn it_breaks_is_slow_and_speaks_for_redis() {
    let server = Server::start().await;
    let tap = Tap::start(To::Unix(server.socket())).await;
    let mut connection = connect(&tap).await.unwrap();
    tap.set(Mode::Say("-LOADING Redis is loading the dataset in memory"));
    let error = count(&mut connection, "n").await.unwrap_err();
    assert_eq!(error.code(), Some("LOADING"));
    tap.set(Mode::Pass);
    assert_eq!(count(&mut connection, "n").await.unwrap(), 1);

    let by = Duration::from_millis(60);
    tap.set(Mode::Slow(by));
    let clock = Clock::system();
    let sent = clock.now().mono;
    assert_eq!(count(&mut connection, "n").await.unwrap(), 2);
    assert!(clock.now().mono.since(sent) >= 2 * by);

    tap.set(Mode::Cut);
    count(&mut connection, "n").await.unwrap_err();
    connect(&tap).await.unwrap_err();
    let none = async || (tap.connections().1 == 0).then_some(());
    until("no connection is left", none).await;
    tap.set(Mode::Pass);
    let mut connection = connect(&tap).await.unwrap();
    assert_eq!(count(&mut connection, "n").await.unwrap(), 3);
    let counts: BTreeMap<_, _> = tap.commands();
    assert_eq!(counts["INCR"], 3 + 1, "{counts:?}");
}
