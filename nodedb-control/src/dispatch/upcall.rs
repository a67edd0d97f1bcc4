//! What cores ask of control: leases of surrogates.
//!
//! A core asks ahead of need. Shard 0's core makes the lease durable in its log, then the asking
//! core is told which ids it may give out. Inserts wait there meanwhile; when the lease fails they
//! fail with its reason.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use nodedb_bridge::request::Op;
use nodedb_bridge::upcall::Upcall;
use nodedb_types::{CoreId, Result, ShardId};

use crate::node::Worker;

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
    let op = Op::Lease {
        collection,
        shard,
        big,
    };
    if let Err(why) = lease_and_grant(&worker, core, op).await {
        let op = Op::Deny {
            collection,
            shard,
            why,
        };
        let statement = worker.system_statement(worker.node.clock.now());
        let reader = worker.dispatcher.send(core, &statement, op).await;
        // A core that does not take this has ended, and its inserts with it.
        let _ = worker.dispatcher.done(reader).await;
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
