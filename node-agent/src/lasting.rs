//! Tasks that last as long as the agent. Work on one Pod may panic, and is reported for that Pod; of these tasks every Pod depends.

use tokio::task::JoinHandle;

/// Begins one. Should it panic, the agent ends, and whoever started it starts it anew: rules stay, and nobody goes on saying what
/// nobody looks at any more.
pub fn lasting(name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
    let name = name.into();
    let task = tokio::spawn(task);
    tokio::spawn(async move {
        if task.await.is_err_and(|error| error.is_panic()) {
            tracing::error!(name, "failed to go on: a task of the agent panicked; ending, to be started anew");
            std::process::exit(1);
        }
    });
}

/// What a thread has made for such a task, which panics as the thread does; nothing where the agent is ending.
pub async fn of_thread<T>(thread: JoinHandle<T>) -> Option<T> {
    match thread.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(made) => Some(made),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}
