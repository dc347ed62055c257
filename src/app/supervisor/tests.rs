use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::core::Core;
use crate::app::parts;
use crate::app::parts::RouteParts;
use crate::cloud::{self, HandshakeLog, Post, TransportError};
use crate::config::Config;
use crate::mqtt::{self, LinkConfig, Timing};
use crate::protocol::{Reply, Request};

const LIMIT: Duration = Duration::from_mins(1);

async fn failure(supervisor: &mut Supervisor) -> String {
    timeout(LIMIT, supervisor.failed()).await.expect("the end of a part is noticed")
}

#[tokio::test]
async fn whatever_ends_as_it_may_not_is_told_by_its_name() {
    let mut supervisor = Supervisor::default();
    supervisor.errand("an errand", Step::Observers, async {});
    supervisor.service("a service", Step::Observers, std::future::pending());
    supervisor.service("the first", Step::Observers, async {});
    assert_eq!(failure(&mut supervisor).await, "the first ended unasked");
    supervisor.part("the second", Step::Loops, async { Err("the disk is gone") });
    assert_eq!(failure(&mut supervisor).await, "the second failed: the disk is gone");
    supervisor.part("the third", Step::Loops, async { Ok::<_, Infallible>(()) });
    assert_eq!(failure(&mut supervisor).await, "the third ended unasked");
    supervisor.errand("the fourth", Step::Session, async { panic!("a fault") });
    assert_eq!(failure(&mut supervisor).await, format!("the fourth failed: {FAULT}"));
    supervisor.adopt("the fifth", Step::Link, tokio::spawn(async { panic!("a fault") }));
    assert_eq!(failure(&mut supervisor).await, format!("the fifth failed: {FAULT}"));
}

#[tokio::test(start_paused = true)]
async fn each_step_of_the_stop_waits_for_its_own() {
    let mut supervisor = Supervisor::default();
    let stop = CancellationToken::new();
    for (name, step) in [("a loop", Step::Loops), ("another loop", Step::Loops), ("the link", Step::Link)] {
        supervisor.service(name, step, stop.clone().cancelled_owned());
    }
    supervisor.service("one that hangs", Step::Observers, std::future::pending());
    supervisor.part("one that fails meanwhile", Step::Callback, async { Err("too late") });
    supervisor.join(Step::Results, None).await;
    supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
    stop.cancel();
    for step in [Step::Loops, Step::Link, Step::Callback] {
        supervisor.join(step, None).await;
        assert_eq!(supervisor.left[&step], 0);
    }
    assert_eq!(supervisor.left[&Step::Observers], 1);
}

/// A configuration of a bridge in a directory of its own, whose broker is nobody.
fn configuration(dir: &std::path::Path) -> Config {
    let file = dir.join("config.toml");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = format!(
        "state_dir = {:?}\n[ilink]\nappkey = \"a\"\nsecretkey = \"s\"\nuid = \"414\"\n[callback]\npublic_url = \"https://x\"\n[mqtt]\nbroker = \"mqtt://{nobody}\"\n",
        dir.join("state").display().to_string()
    );
    std::fs::write(&file, toml).unwrap();
    std::fs::create_dir(dir.join("state")).unwrap();
    Config::load(Some(&file), &std::iter::empty::<(&str, &str)>().collect()).unwrap()
}

#[tokio::test]
async fn a_fault_in_the_link_ends_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let (_core, mut election) = Core::open(&config).unwrap();
    let routes = RouteParts::open(&config, &election.uncontested().unwrap().store).await.unwrap();
    // No moment is so far away: the link has a fault when it waits before its second attempt.
    let timing = Timing { backoff_min: Duration::MAX, backoff_max: Duration::MAX, ..Timing::default() };
    let settings = LinkConfig { timing, ..parts::link(&config, routes.filters()) };
    let link = mqtt::start(settings, CancellationToken::new()).unwrap();
    let mut supervisor = Supervisor::default();
    supervisor.adopt("the link to the broker", Step::Link, link.task);
    assert_eq!(failure(&mut supervisor).await, format!("the link to the broker failed: {FAULT}"));
    // Whoever waits for it does not wait for ever, and the stop does not wait for what has gone.
    let publication = crate::local::Publication::raw("a".to_owned(), "x");
    let delivery = timeout(LIMIT, async { link.publisher.publish(publication).await.await }).await;
    assert_eq!(delivery.unwrap(), mqtt::Delivery::Closed);
    timeout(LIMIT, supervisor.join(Step::Link, None)).await.unwrap();
}

/// A service at which the program has a fault.
struct Faulty;

impl Post for Faulty {
    fn post<'a>(
        &'a self,
        _: &'a Request,
        _: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send + 'a>> {
        panic!("a fault")
    }
}

#[tokio::test]
async fn a_fault_in_the_session_ends_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let (core, _) = Core::open(&config).unwrap();
    let registry = Arc::new(core.registry(&config));
    let handshakes = HandshakeLog::default();
    let (session, task) =
        cloud::start(Faulty, core.session_config(&config), registry, handshakes, CancellationToken::new());
    let mut supervisor = Supervisor::default();
    supervisor.adopt("the session with iLink", Step::Session, task);
    assert_eq!(failure(&mut supervisor).await, format!("the session with iLink failed: {FAULT}"));
    drop(session);
}
