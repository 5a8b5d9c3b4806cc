//! What runs on which thread.

use super::*;
use crate::tftp::conversation::Conversation;
use crate::tftp::options::Asked;
use crate::tftp::registry::Registry;
use crate::tftp::transfer::Transfer;
use crate::tftp::worker::Worker;
use crate::tftp::workers::Workers;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A conversation with this client, whose first block is sent.
fn begun(client: &Client, workers: &Arc<Workers>) -> (Box<Conversation>, UnboundedReceiver<Ended>) {
    let peer = client.0.local_addr().unwrap();
    let file = Bytes::from(vec![7; 512 * 20 - 1]);
    let granted = Asked::default().grant(LIMITS, file.len());
    let place = Arc::new(Registry::default()).begin(peer, b"rrq").unwrap();
    let (ends, ended) = unbounded_channel();
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let conversation = Conversation::open(
        local,
        "file".to_owned(),
        Transfer::new(file, &granted),
        place,
        ends,
        Arc::clone(workers),
    );
    let mut conversation = conversation.unwrap();
    conversation.send();
    (conversation, ended)
}

fn all_of_it(client: &Client, mut ended: UnboundedReceiver<Ended>) {
    for block in 1..=20 {
        let (packet, from) = client.hear();
        assert_eq!(packet[..4], [0, 3, 0, block]);
        client.ack(block.into(), from);
    }
    assert_eq!(ended.blocking_recv().unwrap().outcome, Outcome::Complete);
}

/// So many that no more have a thread each.
fn many(workers: &Workers) {
    while workers.one_more_flows() {}
}

#[test]
fn a_few_transfers_have_a_thread_each_and_more_do_not() {
    let workers = Workers::default();
    assert_eq!((0..10).filter(|_| workers.one_more_flows()).count(), 4);
    (0..6).for_each(|_| workers.one_less_flows());
    assert!(
        !workers.one_more_flows(),
        "4 of 10 are counted still, and this one"
    );
    workers.one_less_flows();
    workers.one_less_flows();
    assert!(workers.one_more_flows());
}

#[test]
fn a_transfer_moves_to_the_thread_where_its_packets_come_in() {
    let workers = Arc::new(Workers::of(vec![Worker::start(0).unwrap()]));
    many(&workers);
    // No processor has this number.
    let elsewhere = Worker::start(usize::MAX).unwrap();
    let client = Client::new();
    let (conversation, ended) = begun(&client, &workers);
    assert!(elsewhere.give(conversation).is_ok());
    let news = elsewhere.news();
    drop(elsewhere);
    let (_, from) = client.hear();
    client.ack(1, from);
    // That thread has nothing to serve after the first answer, and ends.
    while Arc::strong_count(&news) > 1 {
        std::thread::yield_now();
    }
    let (packet, from) = client.hear();
    assert_eq!(packet[..4], [0, 3, 0, 2]);
    client.0.send_to(b"\0\x05\0\0enough\0", from).unwrap();
    let stopped = Outcome::Stopped("enough".to_owned());
    assert_eq!({ ended }.blocking_recv().unwrap().outcome, stopped);
}

#[test]
fn a_thread_that_has_ended_is_replaced() {
    let workers = Arc::new(Workers::of(vec![Worker::that_has_ended()]));
    many(&workers);
    let client = Client::new();
    let (conversation, ended) = begun(&client, &workers);
    workers.add(conversation);
    all_of_it(&client, ended);
}

#[test]
fn a_transfer_with_its_own_thread_goes_on_with_the_others_when_there_are_many() {
    let workers = Arc::new(Workers::default());
    let client = Client::new();
    let (conversation, mut ended) = begun(&client, &workers);
    workers.add(conversation);
    for block in 1..=20 {
        let (packet, from) = client.hear();
        assert_eq!(packet[..4], [0, 3, 0, block]);
        if block == 10 {
            many(&workers);
        }
        client.ack(block.into(), from);
    }
    assert_eq!(ended.blocking_recv().unwrap().outcome, Outcome::Complete);
}
