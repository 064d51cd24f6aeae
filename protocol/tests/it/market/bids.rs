//! Who bids on a task, who wins it, and what those who do not bid say.

use super::*;

#[test]
fn workers_say_why_they_do_not_bid() {
    let mut net = Net::new(3, false);
    let datanet = net.datanet();
    net.pass(6);
    let cheap = net.train(1, datanet, Amount(Amount::OPEN.0 / 2));
    let asks = Amount(Amount::OPEN.0 + Amount::OPEN.0 / 20);
    assert_eq!(net.declines(&cheap), [DeclineReason::BudgetTooLow { asks }, DeclineReason::BudgetTooLow { asks }]);
    assert_eq!(net.hosts[0].node.request(&cheap).unwrap().bids, (0, 0));
    net.pass(2);
    let good = net.train(2, datanet, Amount(2 * Amount::OPEN.0));
    assert!(net.declines(&good).is_empty());
    net.pass(8);
    assert_eq!(net.hosts.iter().map(|host| host.jobs.len()).sum::<usize>(), 1);
    let third = net.train(3, datanet, Amount(2 * Amount::OPEN.0));
    assert_eq!(net.declines(&third), [DeclineReason::Busy], "one of the two has work");
}

#[test]
fn whose_own_records_are_left_out_trains_only_when_nobody_else_bids() {
    for at_stake in 1..3 {
        let mut net = Net::new(3, false);
        let datanet = net.datanet();
        net.pass(6);
        let left_out = vec![net.hosts[at_stake].node.account()];
        let key = net.train_without(1, datanet, Amount(2 * Amount::OPEN.0), left_out);
        net.pass(8);
        let award = net.hosts[0].node.request(&key).unwrap().award.expect("two bid");
        assert_eq!(award.node, net.hosts[3 - at_stake].node.id());
    }
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    net.pass(6);
    let alone = vec![net.hosts[1].node.account()];
    let key = net.train_without(1, datanet, Amount(2 * Amount::OPEN.0), alone);
    net.pass(8);
    assert!(net.hosts[0].node.request(&key).unwrap().award.is_some(), "its segments are checked all the same");
}

#[test]
fn a_worker_without_the_datanet_says_so() {
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    let key = net.train(1, datanet, Amount(2 * Amount::OPEN.0));
    assert_eq!(net.declines(&key), [DeclineReason::DatanetUnknown]);
}

#[test]
fn declines_come_no_oftener_than_once_a_second() {
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    net.pass(6);
    for number in 1..40 {
        net.train(number, datanet, Amount(1));
    }
    assert_eq!(net.declines, 1);
}

#[test]
fn a_job_that_cannot_be_done_says_why() {
    let mut net = Net::new(2, false);
    let datanet = net.datanet();
    net.pass(6);
    let key = net.train(1, datanet, Amount(2 * Amount::OPEN.0));
    net.pass(6);
    let job = *net.hosts[1].jobs.keys().next().expect("it has the task");
    let outcome = Box::new(JobOutcome::Failed("the base is not Llama".into()));
    net.feed(1, Input::Finished { job, outcome });
    assert_eq!(net.declines(&key), [DeclineReason::unable("the base is not Llama")]);
}
