//! The code of the SDK's guide, against a server: `cargo run -p nodedb-client --example guide`.

mod steps;

use nodedb_client::{Client, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let client = Client::connect("ndb://127.0.0.1:6433").await?;
    steps::run(&client).await
}
