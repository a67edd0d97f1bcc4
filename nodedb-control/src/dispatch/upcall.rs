//! What cores ask of control: leases of surrogates.
//!
//! A core asks ahead of need. Shard 0's core makes the lease durable in its log, then the asking
//! core is told which ids it may give out. Inserts wait there meanwhile, so a lease that fails is
//! tried again for as long as the node runs.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use nodedb_bridge::request::Op;
use nodedb_bridge::upcall::Upcall;
use nodedb_types::{CoreId, Result, ShardId};

use crate::node::Worker;

/// Pause before a lease is asked for again, nanoseconds.
const RETRY_NS: u64 = 100_000_000;

/// Answers one upcall, in a task of its own where that takes time.
pub fn answer(worker: &Rc<Worker>, upcall: Upcall) {
    match upcall {
        Upcall::NeedExtent { .. } => {
            let task = lease(worker.clone(), upcall);
            worker.runtime.spawn(Box::pin(task));
        }
        Upcall::Latched { .. } => {
            worker.node.counters.latched.store(1, Ordering::Relaxed);
        }
    }
}

async fn lease(worker: Rc<Worker>, upcall: Upcall) {
    let Upcall::NeedExtent {
        core,
        collection,
        shard,
        big,
    } = upcall
    else {
        return;
    };
    loop {
        let op = || Op::Lease {
            collection,
            shard,
            big,
        };
        match lease_and_grant(&worker, core, op()).await {
            Ok(()) => return,
            Err(_) if worker.node.counters.latched.load(Ordering::Relaxed) == 1 => return,
            Err(_) => {
                let at = worker.runtime.now_ns() + RETRY_NS;
                worker.runtime.sleep_until(at).await;
            }
        }
    }
}

async fn lease_and_grant(worker: &Worker, core: CoreId, op: Op) -> Result<()> {
    let statement = worker.system_statement(worker.node.clock.now());
    let catalog_core = worker.dispatcher.core_of(ShardId::CATALOG);
    let reader = worker.dispatcher.send(catalog_core, &statement, op).await;
    let extent = worker.dispatcher.leased(reader).await?;
    let reader = worker
        .dispatcher
        .send(core, &statement, Op::Grant(extent))
        .await;
    worker.dispatcher.done(reader).await
}
