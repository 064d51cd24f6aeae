//! A chain that is down is an error to retry, and nothing is begun.

use tributary_protocol::id::Amount;
use tributary_settlement::chain::{Chain, ChainError};
use tributary_settlement::rpc::serve;

use super::kit::{World, address, any_port, key, open};

#[tokio::test]
async fn a_chain_nobody_serves_is_down() {
    let free = std::net::TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let outcome = Chain::connect(&format!("http://{free}"), key("payer")).await;
    assert!(outcome.is_err_and(|error| error.is_retryable()));
    for url in ["nonsense", "ftp://host", ""] {
        let outcome = Chain::connect(url, key("payer")).await;
        assert!(matches!(outcome, Err(ChainError::BadUrl { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_connection_survives_the_servers_restart() {
    let world = World::new(|_| ()).await;
    let chain = Chain::connect(&world.server.url(), key("operator")).await.unwrap();
    let chain = chain.at(world.deployment).unwrap();
    let World { server, embedded, folder, .. } = world;
    let at = server.address();
    server.stop().await;
    let balance = chain.balance(address("operator")).await;
    assert!(matches!(balance, Err(ChainError::ChainDown { .. })), "{balance:?}");
    let transfer = chain.transfer(address("worker"), open(1)).await;
    assert!(matches!(transfer, Err(ChainError::ChainDown { .. })), "{transfer:?}");
    let totals = chain.totals().await;
    assert!(totals.is_err_and(|error| error.is_retryable()));

    let server = serve(embedded, at).await.unwrap();
    assert_eq!(chain.resume().await.unwrap(), 0);
    assert_eq!(chain.balance(address("worker")).await.unwrap(), Amount::ZERO);
    chain.transfer(address("worker"), open(1)).await.unwrap();
    assert_eq!(chain.balance(address("worker")).await.unwrap(), open(1));
    server.stop().await;
    drop(folder);
}

#[tokio::test]
async fn a_node_that_speaks_something_else_is_no_chain() {
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let outcome = Chain::connect(&url, key("payer")).await;
    assert!(matches!(outcome, Err(ChainError::BadAnswer { .. })), "{outcome:?}");
    server.abort();
}
