//! How runs and epochs end: stopped runs stay stopped, what was committed is paid, and only what is funded is counted.

use super::*;

#[test]
fn a_stopped_run_stops_its_worker_and_stays_stopped() {
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    net.pass(6);
    let key = net.train(1, datanet, Amount(2 * Amount::OPEN.0));
    net.pass(6);
    assert_eq!(net.hosts[1].jobs.len(), 1);
    net.command(0, Command::StopFineTune(key));
    assert!(net.hosts[1].jobs.is_empty() && net.hosts[1].node.jobs().is_empty());
    net.pass(30);
    let facts = net.hosts[0].facts.clone();
    let again = Node::new(net.now_ms, config(0, false), facts);
    for node in [&net.hosts[0].node, &again] {
        assert_eq!(node.request(&key).unwrap().phase, Phase::Failed("stopped by its requester".into()));
        assert_eq!(node.receipts().count(), 0);
    }
}

#[test]
fn a_result_that_was_committed_before_the_stop_is_paid() {
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    net.pass(6);
    let key = net.train(1, datanet, Amount(2 * Amount::OPEN.0));
    net.pass(6);
    let job = *net.hosts[1].jobs.keys().next().unwrap();
    let checkpoints = vec![Hash([1; 32]), Hash([2; 32])];
    let trained = TrainedAdapter {
        adapter: Hash([3; 32]),
        checkpoints,
        steps: 100,
        kept_step: 100,
        loss_micro_nats: 1,
        elapsed_ms: 1,
        class: "test".into(),
    };
    net.feed(1, Input::Finished { job, outcome: Box::new(JobOutcome::Trained(trained)) });
    net.command(0, Command::StopFineTune(key));
    net.pass(10);
    assert!(matches!(net.hosts[0].node.request(&key).unwrap().phase, Phase::Done(_)));
    assert_eq!(net.hosts[1].node.receipts().count(), 1);
}

#[test]
fn an_epoch_counts_the_oldest_receipts_as_far_as_fees_arrived() {
    let mut net = Net::new(1, true);
    net.release();
    let mut receipts = Vec::new();
    for number in 1..4 {
        receipts.push(net.ask(number, limit()).receipt.unwrap());
        net.pass(1);
    }
    net.command(0, Command::CloseEpoch);
    assert!(net.hosts[0].posted.is_empty(), "nothing arrived, so nothing is counted");
    assert_eq!(net.hosts[0].funding_reads, 1);
    let stream = (address(0), address(0));
    net.fees.insert(stream, Amount(2 * FEE.0 - 1));
    net.command(0, Command::CloseEpoch);
    let first: Vec<ReceiptId> = net.hosts[0].posted.last().unwrap().ids().copied().collect();
    assert_eq!(first, receipts[..1]);
    net.fees.insert(stream, Amount(2 * FEE.0));
    net.command(0, Command::CloseEpoch);
    let newest = net.hosts[0].posted.last().unwrap();
    let mut expected = receipts[..2].to_vec();
    expected.sort();
    assert_eq!((newest.epoch, newest.ids().copied().collect::<Vec<_>>()), (2, expected));
    assert!(newest.receipts.iter().all(|counted| counted.since == if counted.receipt == receipts[0] { 1 } else { 2 }));
    let facts = net.hosts[0].facts.clone();
    net.hosts[0].node = Node::new(net.now_ms, config(0, true), facts);
    net.fees.insert(stream, Amount(3 * FEE.0));
    net.command(0, Command::CloseEpoch);
    assert_eq!(net.hosts[0].posted.last().unwrap().receipts.len(), 3, "after a restart it goes on");
}

#[test]
fn a_poster_anchors_by_itself_only_when_it_is_alone() {
    let mut alone = Net::new(1, true);
    alone.hosts[0].node = Node::new(BEGIN_MS, NodeConfig { epoch_interval_ms: 5_000, ..config(0, true) }, Vec::new());
    alone.release();
    alone.ask(1, limit()).receipt.unwrap();
    alone.fees.insert((address(0), address(0)), FEE);
    alone.pass(7);
    assert_eq!(alone.hosts[0].posted.len(), 1, "nothing new makes no epoch");
    let mut two = Net::new(2, true);
    two.hosts[0].node = Node::new(BEGIN_MS, NodeConfig { epoch_interval_ms: 5_000, ..config(0, true) }, Vec::new());
    two.release();
    assert_eq!(two.hosts[0].node.next_epoch_ms(two.now_ms), None);
    two.pass(20);
    assert_eq!(two.hosts[0].funding_reads, 0);
}
