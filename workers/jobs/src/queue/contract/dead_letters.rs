//! Contract of dead letters.

use super::*;
use crate::queue::DeadLetter;

pub(in crate::queue) async fn dead_letters_can_be_listed_and_dropped(backend: &impl Backend) {
    let queue = backend.queue();
    assert!(queue.dead_letters(5).await.unwrap().is_empty());
    let mut consumer = consumer(backend).await;
    for (id, code) in [("a", "first"), ("b", "second"), ("c", "third")] {
        send(backend, id).await;
        let delivery = soon(consumer.next()).await;
        assert_eq!(
            delivery.dead_letter(&Failure::new(code, "for a reason")).await.unwrap(),
            Settled::Confirmed
        );
    }
    let codes =
        |letters: &[DeadLetter]| letters.iter().map(|l| l.reason.code.clone()).collect::<BTreeSet<_>>();
    // Listing removes nothing, however often it is repeated.
    for _ in 0..3 {
        drop(list_dead(&queue, 5, 3).await);
    }
    let listed = list_dead(&queue, 2, 2).await;
    assert!(listed.iter().all(|l| l.lane == Some(Lane::Items) && l.reason.message == "for a reason"));
    assert_eq!(list_dead(&queue, 5, 1).await.len(), 1, "a held dead letter is not listed again");
    drop(listed);
    let letters = list_dead(&queue, 5, 3).await;
    assert_eq!(codes(&letters), ["first", "second", "third"].map(String::from).into());
    for letter in letters {
        if letter.reason.code != "second" {
            assert_eq!(letter.delivery.ack().await, Settled::Confirmed);
        }
    }
    assert_eq!(codes(&list_dead(&queue, 5, 1).await), ["second".to_owned()].into());
}

/// Lists until there are `expected` dead letters: one that was just dropped or sent needs a moment.
pub(super) async fn list_dead(queue: &Arc<dyn Queue>, limit: usize, expected: usize) -> Vec<DeadLetter> {
    for _ in 0..200 {
        let letters = queue.dead_letters(limit).await.unwrap();
        if letters.len() == expected {
            return letters;
        }
        drop(letters);
        sleep(Duration::from_millis(50)).await;
    }
    panic!("there are never {expected} dead letters");
}
