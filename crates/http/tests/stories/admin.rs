//! Admin sockets and the control client, as roles and the agent use them.

use std::time::Duration;

use http::{Method, StatusCode};
use mainstay_http::admin::{self, Reply, Router};
use mainstay_http::client::{self, Bounds, CallError, Upstream};
use mainstay_http::metrics::Registry;

fn router() -> Router {
    let registry = Registry::default();
    registry.counter("things_total", "Things.").add(3);
    Router::new()
        .health(|| Ok(()))
        .metrics(&registry)
        .route(Method::POST, "/v1/double", |call| async move {
            match call.json::<u64>() {
                Ok(number) => Reply::json(&(number * 2)),
                Err(reply) => reply,
            }
        })
        .route(Method::GET, "/v1/big", |_| async { Reply::text(StatusCode::OK, "x".repeat(100_000)) })
        .route(Method::GET, "/v1/never", |_| std::future::pending())
}

#[tokio::test]
async fn a_role_tells_its_health_and_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let _socket = admin::serve(&path, 0o600, router()).unwrap();
    assert_eq!(client::get(&path, "/health").await.unwrap().text(), "ok\n");
    assert!(client::get(&path, "/metrics").await.unwrap().text().contains("\nthings_total 3\n"));
    let doubled = client::post(&path, "/v1/double", Some("21")).await.unwrap();
    assert_eq!(doubled.json::<u64>().unwrap(), 42);
    assert_eq!(client::post(&path, "/v1/double", Some("x")).await.unwrap().status, 400);
    assert_eq!(client::get(&path, "/v1/double").await.unwrap().status, 405);
    assert_eq!(client::get(&path, "/nothing").await.unwrap().status, 404);
}

#[tokio::test]
async fn an_unhealthy_role_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let _socket = admin::serve(&path, 0o600, Router::new().health(|| Err("no disk".to_owned()))).unwrap();
    let answer = client::get(&path, "/health").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "no disk\n"));
}

#[tokio::test]
async fn a_new_process_takes_the_path_over_and_the_old_one_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let old = admin::serve(&path, 0o600, Router::new().health(|| Err("old".to_owned()))).unwrap();
    let new = admin::serve(&path, 0o600, router()).unwrap();
    assert_eq!(client::get(&path, "/health").await.unwrap().text(), "ok\n");
    tokio::task::spawn_blocking(move || drop(old)).await.unwrap();
    assert_eq!(client::get(&path, "/health").await.unwrap().text(), "ok\n");
    tokio::task::spawn_blocking(move || drop(new)).await.unwrap();
    assert!(!path.exists());
    assert!(matches!(client::get(&path, "/health").await, Err(CallError::Connect { .. })));
}

#[tokio::test]
async fn a_path_longer_than_an_address_works() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a".repeat(100)).join("b".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("admin.sock");
    let _socket = admin::serve(&path, 0o600, router()).unwrap();
    assert_eq!(client::get(&path, "/health").await.unwrap().status, 200);
}

#[tokio::test]
async fn calls_are_bounded_in_time_and_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let _socket = admin::serve(&path, 0o600, router()).unwrap();
    let upstream = Upstream::Unix(path.clone());
    let bounds = Bounds { timeout: Duration::from_millis(200), body_bytes: 1000 };
    let big = client::call(&upstream, &Method::GET, "/v1/big", None, bounds).await;
    assert!(matches!(big, Err(CallError::TooLarge(1000))));
    let never = client::call(&upstream, &Method::GET, "/v1/never", None, bounds).await;
    assert!(matches!(never, Err(CallError::TimedOut(_))));
    let large = "1".repeat(5 << 20);
    assert_eq!(
        client::post(&path, "/v1/double", Some(&large)).await.map(|answer| answer.status.as_u16()).ok(),
        Some(413)
    );
}
