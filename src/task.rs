//! Tasks of the control plane: a panic ends one of them, is counted, and gives back what it held.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use metrics::NodeMetrics;
use tokio::task::JoinHandle;

/// Spawns `work`. When it panics, its task ends as if it had returned, and `panics` counts it.
pub fn spawn(metrics: Arc<NodeMetrics>, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let mut work = Box::pin(work);
    // What it held is dropped with it, and not looked at again.
    tokio::spawn(poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(_) => {
                metrics.panics.increment();
                Poll::Ready(())
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_and_gives_back_what_the_task_held() {
        let metrics = Arc::new(NodeMetrics::default());
        let held = Arc::new(());
        let hold = held.clone();
        let task = spawn(metrics.clone(), async move {
            let _hold = hold;
            tokio::task::yield_now().await;
            panic!("as it should");
        });
        assert!(task.await.is_ok());
        assert_eq!((metrics.panics.get(), Arc::strong_count(&held)), (1, 1));
    }
}
