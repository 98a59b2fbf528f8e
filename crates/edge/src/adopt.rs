//! How a worker follows the control thread, and what it tells it regularly.

use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::control::{ToWorker, Told};
use crate::health::Event;
use crate::service::Worker;
use crate::site::Site;

/// How often upstreams are looked at that answer nothing.
const LOOK: Duration = Duration::from_millis(100);
/// Looks from one summary to the next.
const LOOKS: u32 = 10;
/// An upstream that answers nothing for so long though requests wait is checked out of turn.
const SILENCE: Duration = Duration::from_millis(300);

/// With so many requests that wait, and as many times the usual latency without any answer, it is doubted.
const SEVERAL: u32 = 2;
const UNUSUAL: u32 = 10;

/// Does what the control thread says, as long as both are there.
pub(crate) async fn follow(worker: Weak<Worker>, mut messages: mpsc::UnboundedReceiver<ToWorker>) {
    while let Some(message) = messages.recv().await {
        let Some(worker) = worker.upgrade() else { return };
        let now = Instant::now();
        match message {
            ToWorker::Adopt(in_force) => {
                let before = Rc::clone(&worker.site.borrow());
                let made = Site::new(
                    &in_force,
                    &worker.metrics,
                    &mut worker.random.borrow_mut(),
                    Some(&before),
                    now,
                );
                match made {
                    Ok(site) => *worker.site.borrow_mut() = Rc::new(site),
                    Err(error) => {
                        tracing::error!(worker = worker.number, error, "a worker cannot follow the plan");
                    }
                }
                let told = Told::Adopted { worker: worker.number, generation: in_force.generation };
                // Its end closes only with the role's.
                let _ = worker.told.send(told).await;
            }
            ToWorker::Down(group, upstream) => {
                let site = Rc::clone(&worker.site.borrow());
                let member = site.groups.get(&*group).and_then(|group| group.member(upstream));
                if let Some(member) = member {
                    member.went_down.notify_waiters();
                }
            }
            ToWorker::CameUp(group, upstream) => {
                let site = Rc::clone(&worker.site.borrow());
                if let Some(group) = site.groups.get(&*group) {
                    group.balancer.borrow_mut().came_up(upstream, now);
                }
            }
        }
    }
}

/// Tells what was seen of upstreams: at once who is silent, once a second how long they take.
pub(crate) async fn observe(worker: Weak<Worker>) {
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(worker) = worker.upgrade() else { return };
        let (site, now) = (Rc::clone(&worker.site.borrow()), Instant::now());
        looks += 1;
        for group in site.groups.values() {
            let roster = group.roster();
            for (index, member) in roster.members.iter().enumerate() {
                if let Some((silent, waiting)) = member.is_silent_for(SILENCE, now) {
                    let usual = group.balancer.borrow().expected(index, now);
                    let id = member.shared.id;
                    let is_far_from_usual = waiting >= SEVERAL && silent >= usual * UNUSUAL;
                    let event = if is_far_from_usual { Event::Silent(id) } else { Event::Suspected(id) };
                    worker.tell(&roster.shared, event);
                }
            }
            if looks % LOOKS == 0 {
                let mut balancer = group.balancer.borrow_mut();
                for summary in balancer.summaries() {
                    worker.tell(&roster.shared, Event::Summarized(summary));
                }
            }
        }
    }
}
