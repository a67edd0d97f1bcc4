//! Listeners: how clients reach sessions.
//!
//! One task on the first worker accepts; each connection goes to the worker with the fewest.

pub mod http;
pub mod native;
pub mod pgwire;

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;

use nodedb_types::{Failure, Result, SqlState};
use tokio::net::{TcpListener, TcpStream};

use crate::node::{Node, Worker};
use crate::worker::pool::Pool;

/// Accepts connections until the node stops and hands each to a worker, where `serve` runs over it.
pub async fn accept<F, W>(listener: TcpListener, pool: Pool, node: Arc<Node>, serve: F)
where
    F: Fn(TcpStream, Rc<Worker>) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + 'static,
{
    let accepting = accept_all(&listener, &pool, serve);
    // The stop closes the socket.
    node.shutdown.unless_begun(accepting, || true).await;
}

async fn accept_all<F, W>(listener: &TcpListener, pool: &Pool, serve: F)
where
    F: Fn(TcpStream, Rc<Worker>) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // reason: out of file descriptors, or a client that is gone already; nothing tells
                // when one is free again.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        let serve = serve.clone();
        // A refusal closes the connection; there is nothing to say it with yet.
        let _ = pool.submit(Box::new(move |worker| {
            Box::pin(async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    serve(stream, worker).await;
                }
            })
        }));
    }
}

/// Random bytes of the operating system, for keys that clients must not guess.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok(bytes),
        Err(e) => Err(Failure::new(
            SqlState::IoError,
            format!("cannot read random bytes: {e}"),
        )),
    }
}
