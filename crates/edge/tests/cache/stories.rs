//! Many at once, those who leave, and upstreams that fail.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use mainstay_edge::cache::{Key, WorkerCache};
use mainstay_http::{Body, BodyError, BodyStream, Response};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::stage::{Got, Stage, ask, local, ok, request, response, settle};

const FRESH: [(&str, &str); 1] = [("cache-control", "max-age=60")];
const DEADLINE: Duration = Duration::from_mins(1);

/// A body that comes as a test sends it. Dropping the sender ends it.
struct Pieces {
    receiver: UnboundedReceiver<Result<Bytes, BodyError>>,
    left: Option<u64>,
}

type Sender = UnboundedSender<Result<Bytes, BodyError>>;

impl BodyStream for Pieces {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = self.receiver.poll_recv(cx);
        if let (Poll::Ready(Some(Ok(piece))), Some(left)) = (&next, &mut self.left) {
            *left -= piece.len() as u64;
        }
        next
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }
}

fn streamed(length: Option<u64>) -> (Response, Sender) {
    let (sender, receiver) = unbounded_channel();
    let mut response = ok(&FRESH);
    *response.body_mut() = Body::Stream(Box::new(Pieces { receiver, left: length }));
    (response, sender)
}

/// Waits until it holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "{what}");
}

async fn begin<Fut: Future<Output = Response> + 'static>(
    worker: &WorkerCache,
    fetch: impl FnOnce(mainstay_http::Request) -> Fut + 'static,
) -> Response {
    let request = request("GET", "/", &[]);
    let key = Key::of(&request, true, &"route".into()).unwrap();
    worker.answer(request, key, fetch).await.0
}

async fn next(body: &mut Body) -> Option<Result<Bytes, BodyError>> {
    let Body::Stream(stream) = body else { panic!("no stream") };
    poll_fn(|cx| stream.poll_data(cx)).await
}

/// As many requests on as many threads; what they got and how often the origin was asked.
fn crowd<Fut: Future<Output = Response> + 'static>(
    stage: &Stage,
    threads: usize,
    each: usize,
    origin: impl Fn(usize) -> Fut + Send + Sync + 'static,
) -> (Vec<Got>, usize) {
    let (begun, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let origin = Arc::new(origin);
    let got = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                let (begun, asked, origin) = (Arc::clone(&begun), Arc::clone(&asked), Arc::clone(&origin));
                scope.spawn(move || {
                    local(async {
                        let worker = Rc::new(stage.worker());
                        let mut tasks = JoinSet::new();
                        for _ in 0..each {
                            let (begun, asked, origin) =
                                (Arc::clone(&begun), Arc::clone(&asked), Arc::clone(&origin));
                            let worker = Rc::clone(&worker);
                            tasks.spawn_local(async move {
                                begun.fetch_add(1, Ordering::SeqCst);
                                ask(&worker, request("GET", "/", &[]), move |_| {
                                    let number = asked.fetch_add(1, Ordering::SeqCst);
                                    async move {
                                        // Nobody is answered before everybody has asked.
                                        until("all began", || begun.load(Ordering::SeqCst) == threads * each)
                                            .await;
                                        origin(number).await
                                    }
                                })
                                .await
                            });
                        }
                        let mut all = Vec::new();
                        while let Some(got) = tasks.join_next().await {
                            all.push(got.unwrap());
                        }
                        all
                    })
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    (got, asked.load(Ordering::SeqCst))
}

#[test]
fn a_thousand_requests_at_once_make_one_fetch() {
    let stage = Stage::new();
    let (got, asked) = crowd(&stage, 8, 125, |_| async { ok(&FRESH) });
    assert_eq!((got.len(), asked), (1000, 1));
    assert!(got.iter().all(|got| got.status == 200 && got.body == "hello"));
    assert_eq!(got.iter().filter(|got| got.outcome() == "miss").count(), 1);
}

#[test]
fn a_thousand_requests_read_one_stream_while_it_comes() {
    for length in [Some(300_000), None] {
        let stage = Stage::new();
        let (got, asked) = crowd(&stage, 4, 250, move |_| async move {
            let (response, sender) = streamed(length);
            tokio::task::spawn_local(async move {
                for _ in 0..30 {
                    sender.send(Ok(vec![b'x'; 10_000].into())).unwrap();
                    tokio::task::yield_now().await;
                }
            });
            response
        });
        assert_eq!((got.len(), asked), (1000, 1));
        assert!(got.iter().all(|got| got.body.len() == 300_000));
    }
}

#[test]
fn private_pages_do_not_queue_up() {
    let stage = Stage::new();
    let private = [("cache-control", "private")];
    let (got, asked) =
        crowd(&stage, 4, 50, move |number| async move { response(200, &private, &number.to_string()) });
    assert_eq!((got.len(), asked), (200, 200));
    let mut numbers: Vec<usize> = got.iter().map(|got| got.body.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "everyone got a page of their own");
    // From now on they are all at the origin at once: it answers nobody before all are there.
    let there = Arc::new(AtomicUsize::new(0));
    let (got, _) = crowd(&stage, 4, 50, move |_| {
        let there = Arc::clone(&there);
        async move {
            there.fetch_add(1, Ordering::SeqCst);
            until("all are at the origin", || there.load(Ordering::SeqCst) == 200).await;
            response(200, &private, "own")
        }
    });
    assert_eq!(got.len(), 200);
}

#[test]
fn what_becomes_cacheable_is_shared_again() {
    let stage = Stage::new();
    stage.get("/", &[], response(200, &[("cache-control", "no-store")], "x"));
    assert!(stage.get("/", &[], ok(&FRESH)).cache.stored);
    stage.cache.purge_all();
    let (_, asked) = crowd(&stage, 2, 50, |_| async { ok(&FRESH) });
    assert_eq!(asked, 1);
}

#[test]
fn another_one_fetches_if_the_first_leaves_before_the_answer() {
    let stage = Stage::new();
    local(async {
        let worker = Rc::new(stage.worker());
        let mut leaving = Box::pin(begin(&worker, |_| std::future::pending::<Response>()));
        poll_fn(|cx| {
            assert!(leaving.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let second = Rc::clone(&worker);
        let waiting = tokio::task::spawn_local(async move {
            ask(&second, request("GET", "/", &[]), |_| async { ok(&FRESH) }).await
        });
        settle().await;
        assert!(!waiting.is_finished());
        drop(leaving);
        assert_eq!(waiting.await.unwrap().body, "hello");
    });
}

#[test]
fn who_waits_too_long_goes_alone() {
    let stage = Stage::new();
    local(async {
        let worker = stage.worker();
        let mut slow = Box::pin(begin(&worker, |_| std::future::pending::<Response>()));
        poll_fn(|cx| Poll::Ready(slow.as_mut().poll(cx).is_pending())).await;
        let alone = ask(&worker, request("GET", "/", &[]), |_| async { ok(&FRESH) }).await;
        assert_eq!(alone.body, "hello");
        assert_eq!(stage.metric("mainstay_edge_cache_wait_timeouts_total"), 1);
    });
    stage.hit("/", &[]);
}

#[test]
fn a_slow_reader_slows_nobody_down() {
    let stage = Stage::new();
    local(async {
        let worker = stage.worker();
        let (answer, sender) = streamed(None);
        let slow = begin(&worker, |_| async { answer }).await;
        sender.send(Ok(vec![b'x'; 500_000].into())).unwrap();
        drop(sender);
        settle().await;
        // The first one has not read a byte, and others have all of it.
        assert_eq!(
            ask(&worker, request("GET", "/", &[]), |_| async { panic!("asked") }).await.body.len(),
            500_000
        );
        drop(slow);
    });
}

#[test]
fn if_all_readers_leave_only_a_body_that_is_nearly_there_is_fetched_to_its_end() {
    for (length, kept) in [(Some(1_000_000), false), (Some(300_000), true), (None, false)] {
        let stage = Stage::new();
        local(async {
            let worker = stage.worker();
            let (answer, sender) = streamed(length);
            let mut first = begin(&worker, |_| async { answer }).await;
            sender.send(Ok(vec![b'x'; 100_000].into())).unwrap();
            assert_eq!(next(first.body_mut()).await.unwrap().unwrap().len(), 100_000);
            drop(first);
            settle().await;
            assert_eq!(sender.is_closed(), !kept, "{length:?}");
            if kept {
                sender.send(Ok(vec![b'x'; 200_000].into())).unwrap();
                drop(sender);
                settle().await;
            }
            assert_eq!(stage.cache.size().1, usize::from(kept), "{length:?}");
            // Whoever comes next is not held up by what was given up.
            assert_eq!(ask(&worker, request("GET", "/", &[]), |_| async { ok(&FRESH) }).await.status, 200);
        });
    }
}

#[test]
fn a_body_that_breaks_off_is_an_error_for_its_readers_and_is_not_kept() {
    for breaks in [true, false] {
        let stage = Stage::new();
        local(async {
            let worker = stage.worker();
            let (answer, sender) = streamed(Some(10));
            let mut first = begin(&worker, |_| async { answer }).await;
            let mut second = begin(&worker, |_| async { panic!("asked") }).await;
            sender.send(Ok("hello".into())).unwrap();
            if breaks {
                sender.send(Err(BodyError::Closed)).unwrap();
            }
            drop(sender);
            for got in [&mut first, &mut second] {
                assert_eq!(next(got.body_mut()).await.unwrap().unwrap(), "hello");
                assert!(next(got.body_mut()).await.unwrap().is_err());
            }
        });
        assert_eq!(stage.cache.size(), (0, 0));
    }
}

#[test]
fn a_stream_that_turns_out_too_large_is_passed_on_as_it_comes() {
    let stage = Stage::new();
    local(async {
        let worker = stage.worker();
        let (answer, sender) = streamed(None);
        let mut first = begin(&worker, |_| async { answer }).await;
        let mut read = 0;
        for _ in 0..30 {
            sender.send(Ok(vec![b'x'; 100_000].into())).unwrap();
            read += next(first.body_mut()).await.unwrap().unwrap().len();
        }
        drop(sender);
        assert_eq!(read, 3_000_000);
        assert!(next(first.body_mut()).await.is_none());
    });
    assert_eq!(stage.cache.size(), (0, 0));
    assert!(stage.get("/", &[], ok(&FRESH)).cache.stored, "its memory was given back");
}

#[test]
fn a_stale_page_is_given_at_once_and_refreshed_once() {
    let stage = Stage::new();
    stage.get("/", &[], ok(&FRESH));
    stage.pass_secs(65);
    local(async {
        let worker = Rc::new(stage.worker());
        let asked = Rc::new(Cell::new(0));
        let answer = Rc::new(RefCell::new(None));
        for _ in 0..20 {
            let (counted, answer) = (Rc::clone(&asked), Rc::clone(&answer));
            let got = ask(&worker, request("GET", "/", &[]), move |_| async move {
                counted.set(counted.get() + 1);
                let (sent, waits) = tokio::sync::oneshot::channel();
                *answer.borrow_mut() = Some(sent);
                waits.await.unwrap()
            })
            .await;
            assert_eq!((got.outcome(), got.body.as_str()), ("stale", "hello"));
            settle().await;
        }
        assert_eq!(asked.get(), 1);
        let sent = answer.borrow_mut().take().unwrap();
        assert!(sent.send(response(200, &FRESH, "new")).is_ok());
        settle().await;
        assert_eq!(ask(&worker, request("GET", "/", &[]), |_| async { panic!("asked") }).await.body, "new");
    });
}

#[test]
fn a_refresh_ends_with_its_worker() {
    let stage = Stage::new();
    stage.get("/", &[], ok(&FRESH));
    stage.pass_secs(65);
    local(async {
        let worker = stage.worker();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        ask(&worker, request("GET", "/", &[]), move |_| async move {
            let _alive = alive;
            std::future::pending::<Response>().await
        })
        .await;
        settle().await;
        drop(worker);
        let ended = tokio::time::timeout(DEADLINE, ended).await.unwrap();
        assert!(ended.is_err(), "the refresh was dropped");
    });
    // And nothing of it is left in the way of the next one.
    assert_eq!(stage.get("/", &[], response(200, &FRESH, "new")).outcome(), "stale");
    assert_eq!(stage.hit("/", &[]).body, "new");
}

#[test]
fn a_failing_upstream_is_covered_by_what_is_there() {
    for status in [500, 502, 503, 504] {
        let stage = Stage::new();
        stage.get("/", &[], ok(&FRESH));
        stage.pass_secs(100);
        let (got, asked) = crowd(&stage, 2, 50, move |_| async move { response(status, &[], "oops") });
        assert_eq!((got.len(), asked), (100, 1), "{status}");
        assert!(got.iter().all(|got| got.body == "hello" && got.outcome() == "stale_if_error"));
        stage.pass_secs(600);
        assert_eq!(stage.get("/", &[], response(status, &[], "oops")).body, "oops", "{status}");
    }
    let stage = Stage::new();
    stage.get("/", &[], ok(&FRESH));
    stage.pass_secs(100);
    assert_eq!(stage.get("/", &[], response(404, &[], "gone")).body, "gone");
    assert_eq!(stage.cache.size(), (0, 0));
}

#[test]
fn what_was_invalidated_while_it_was_fetched_is_not_kept() {
    for purge in [true, false] {
        let stage = Stage::new();
        local(async {
            let worker = stage.worker();
            let (answer, sender) = streamed(Some(5));
            let mut first = begin(&worker, |_| async { answer }).await;
            if purge {
                stage.cache.purge_prefix("https://a.test/");
            } else {
                ask(&worker, request("POST", "/", &[]), |_| async { response(200, &[], "") }).await;
            }
            // Who comes after the change does not get what was made before it.
            let after =
                ask(&worker, request("GET", "/", &[]), |_| async { response(200, &FRESH, "new") }).await;
            assert_eq!(after.body, "new");
            sender.send(Ok("stale".into())).unwrap();
            drop(sender);
            assert_eq!(next(first.body_mut()).await.unwrap().unwrap(), "stale");
            settle().await;
            assert_eq!(
                ask(&worker, request("GET", "/", &[]), |_| async { panic!("asked") }).await.body,
                "new"
            );
        });
    }
}

#[test]
fn languages_share_a_fetch_each() {
    let stage = Stage::new();
    local(async {
        let worker = Rc::new(stage.worker());
        let (asked, begun) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..100 {
            let language = ["de", "en"][number % 2];
            let (worker, asked, begun) = (Rc::clone(&worker), Rc::clone(&asked), Rc::clone(&begun));
            tasks.spawn_local(async move {
                begun.set(begun.get() + 1);
                let fields = [("accept-language", language)];
                let got = ask(&worker, request("GET", "/", &fields), move |_| async move {
                    asked.set(asked.get() + 1);
                    until("all began", || begun.get() == 100).await;
                    response(200, &[("cache-control", "max-age=60"), ("vary", "accept-language")], language)
                })
                .await;
                assert_eq!(got.body, language);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(asked.get(), 2);
    });
}

#[test]
fn any_traffic_on_many_threads_gets_right_answers_and_leaves_memory_in_order() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut plan = crate::stage::plan();
    plan.memory = mainstay_site::ByteSize::from_mebibytes(4);
    let stage = Stage::of(&plan);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stage = &stage;
            scope.spawn(move || {
                let mut state = (u64::from(seed) << 8) + thread + 1;
                let mut random = move |below: u64| {
                    // xorshift64
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state % below
                };
                local(async {
                    let worker = Rc::new(stage.worker());
                    let mut tasks = JoinSet::new();
                    for _ in 0..1500 {
                        let (path, kind, bytes) = (format!("/{}", random(20)), random(20), random(500) + 1);
                        match kind {
                            0 => drop(stage.cache.purge_url(&format!("https://a.test{path}"))),
                            1 => stage.pass_secs(random(30)),
                            2 => tasks.abort_all(),
                            _ => {
                                let worker = Rc::clone(&worker);
                                tasks.spawn_local(chaotic(worker, path, kind, bytes));
                            }
                        }
                        if tasks.len() > 20 {
                            tasks.join_next().await;
                        }
                        assert!(stage.cache.size().0 <= 3 << 20);
                    }
                    while let Some(done) = tasks.join_next().await {
                        assert!(!done.is_err_and(|error| error.is_panic()));
                    }
                    settle().await;
                });
            });
        }
    });
    stage.cache.purge_all();
    assert_eq!(stage.cache.size(), (0, 0));
    // All memory for bodies on their way was given back: a body as large as all of it finds room.
    local(async {
        let worker = stage.worker();
        let (answer, sender) = streamed(Some(1 << 20));
        let got = tokio::task::spawn_local(async move {
            ask(&worker, request("GET", "/large", &[]), |_| async { answer }).await
        });
        sender.send(Ok(vec![b'x'; 1 << 20].into())).unwrap();
        drop(sender);
        assert!(got.await.unwrap().cache.stored);
    });
}

/// One request, whose body is made of its path, to an origin that fails, streams or forbids keeping by chance.
async fn chaotic(worker: Rc<WorkerCache>, path: String, kind: u64, bytes: u64) {
    let method = if kind == 3 { "POST" } else { "GET" };
    let made = path.clone();
    let request = request(method, &path, &[]);
    let key = Key::of(&request, true, &"route".into()).unwrap();
    let answered = worker.answer(request, key, move |_| async move {
        tokio::task::yield_now().await;
        match kind {
            4 => response(503, &[], &made),
            5 => response(200, &[("cache-control", "private")], &made),
            6..12 => {
                let (answer, sender) =
                    streamed(kind.is_multiple_of(2).then_some(bytes * (made.len() * 100) as u64));
                tokio::task::spawn_local(async move {
                    for _ in 0..bytes {
                        // Whoever asked may have left.
                        if sender.send(Ok(made.repeat(100).into())).is_err()
                            || (kind == 7 && bytes.is_multiple_of(3))
                        {
                            return;
                        }
                    }
                });
                answer
            }
            _ => response(200, &FRESH, &made),
        }
    });
    let mut body = answered.await.0.into_body();
    let is_its_own = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap().replace(&path, "").is_empty();
    if let Body::Full(bytes) = &body {
        assert!(is_its_own(bytes), "{path}");
    }
    while let Body::Stream(_) = &body {
        let Some(Ok(piece)) = next(&mut body).await else { break };
        assert!(is_its_own(&piece), "{path}");
    }
}
