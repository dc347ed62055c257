//! The status page behind a proxy that says itself who may see it, as Home Assistant's ingress does: `admin.trusted_ingress`.

use std::net::IpAddr;

use crate::blackbox::world::World;
use crate::support::http::{Answer, http_from};

/// The proxy's address, and that of anybody else.
const PROXY: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";

#[tokio::test]
async fn a_trusted_ingress_needs_no_token_and_nobody_else_gets_in() {
    let mut world = World::prepared(&[], |bridge| {
        let listen = format!("0.0.0.0:{}", bridge.admin_port());
        bridge.with("admin.listen", &listen).with_toml("admin.trusted_ingress", &format!("[\"{PROXY}\"]"))
    })
    .await;
    world.bridge.spawn();
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", world.bridge.admin_port());
    let get = |from: &str, path: &str| {
        // The name under which the operator's browser knows the proxy, and the path the proxy took away.
        let from: IpAddr = from.parse().unwrap();
        http_from(from)
            .get(url(path))
            .header("host", "homeassistant.local:8123")
            .header("x-ingress-path", "/api/hassio_ingress/x")
    };
    for path in ["/", "/readyz", "/metrics"] {
        let let_in = Answer::of(get(PROXY, path)).await;
        assert_eq!((let_in.status, let_in.header("x-frame-options")), (200, "SAMEORIGIN"), "{path}");
        let policy = let_in.header("content-security-policy");
        assert!(policy.ends_with("; frame-ancestors 'self'") && policy.contains("default-src 'none'"), "{policy}");
    }
    assert_eq!(get(PROXY, "/events").send().await.unwrap().status().as_u16(), 200);
    let page = Answer::of(get(PROXY, "/")).await.body;
    for absolute in ["href=\"/", "src=\"/", "EventSource('/"] {
        assert!(!page.contains(absolute), "a link that leads out of the ingress's path: {absolute}");
    }

    for path in ["/", "/events", "/readyz", "/metrics"] {
        let refused = Answer::of(get(STRANGER, path)).await;
        assert_eq!((refused.status, refused.header("x-frame-options")), (403, "DENY"), "{path}");
        // A name that is right does not help: there is no token that could be.
        let refused = Answer::of(http_from(STRANGER.parse().unwrap()).get(url(path)).bearer_auth("")).await;
        assert_eq!(refused.status, 401, "{path}");
    }
    let health = http_from(STRANGER.parse().unwrap()).get(url("/healthz"));
    assert_eq!(Answer::of(health).await.status, 200);
}
