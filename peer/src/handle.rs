//! The handle on the task that owns the node's state machine.
//!
//! Invariant: only that task touches [`Node`]; everybody else sends inputs or asks for a view, through one
//! bounded channel.

use tokio::sync::{mpsc, oneshot};
use tributary_protocol::node::{Command, Input, Node};

/// Inputs and questions that wait for the node; senders wait when it is full.
pub const INPUT_QUEUE: usize = 1024;

type View = Box<dyn FnOnce(&Node) + Send>;

/// What the node's task takes.
pub enum Request {
    /// Something happened.
    Input(Box<Input>),
    /// Somebody wants to look.
    View(View),
    /// Stop after what is being done.
    Stop(oneshot::Sender<()>),
}

/// The node's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
pub struct Stopped;

/// A handle on the node's task.
#[derive(Clone)]
pub struct NodeHandle {
    requests: mpsc::Sender<Request>,
}

impl NodeHandle {
    /// A handle and the end that the node's task reads.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(INPUT_QUEUE);
        (Self { requests }, receiver)
    }

    /// Tells the node that something happened.
    ///
    /// # Errors
    /// [`Stopped`] when the node's task has ended.
    pub async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.requests.send(Request::Input(Box::new(input))).await.map_err(|_| Stopped)
    }

    /// Gives the node a command.
    ///
    /// # Errors
    /// [`Stopped`] when the node's task has ended.
    pub async fn command(&self, command: Command) -> Result<(), Stopped> {
        self.input(Input::Command(Box::new(command))).await?;
        // Inputs are taken in order: when a look succeeds, what the command accepted is durable.
        self.view(|_| ()).await
    }

    /// Looks at the node.
    ///
    /// # Errors
    /// [`Stopped`] when the node's task has ended.
    pub async fn view<T: Send + 'static>(&self, look: impl FnOnce(&Node) -> T + Send + 'static) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let view: View = Box::new(move |node| {
            // The asker may have gone away meanwhile.
            let _ = reply.send(look(node));
        });
        self.requests.send(Request::View(view)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Stops the node's task and waits for it.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.requests.send(Request::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}
