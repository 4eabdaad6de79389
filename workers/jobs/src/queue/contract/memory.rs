//! Contract suite on the in-memory queue.

use super::*;
use crate::queue::MemoryQueue;

#[async_trait]
impl Backend for MemoryQueue {
    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.clone())
    }

    async fn dead(&self) -> Vec<(Message, Failure)> {
        self.peek_dead()
    }

    async fn reply_queue(&self, name: &str) -> UnboundedReceiver<Message> {
        MemoryQueue::reply_queue(self, name)
    }

    fn unique(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn close(self) {}
}

async fn open() -> MemoryQueue {
    MemoryQueue::with_delivery_limit(DELIVERY_LIMIT)
}

every_behaviour!(open);

#[tokio::test]
async fn events_reach_subscribers() {
    let queue = open().await;
    let mut events = queue.subscribe();
    let event = Event { topic: "job.failed".to_owned(), message: message("a") };
    queue.publish_event(&event).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), event);
}
