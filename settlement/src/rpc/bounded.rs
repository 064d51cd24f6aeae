//! HTTP/1 for a bounded number of callers who keep to their time.
//!
//! Invariant: no caller holds more connections than its bound, nor all callers more than theirs; a connection that
//! waits for a request, or for the rest of one, ends by its deadline, and before that when a newer one needs its place.
//! So who is silent, or sends half a request, keeps nobody else out.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tower::Service;

/// Seconds to receive a request's head, counted from the connection's begin or from the answer before: ten round
/// trips of a bad line, and no more for a caller who says nothing.
pub const HEAD_TIMEOUT_S: u64 = 10;
/// Seconds in which something more of a request's body has to arrive.
pub const BODY_TIMEOUT_S: u64 = 10;
/// What is told to whom there is no place for.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Bytes of a request's head, and of a body's piece: what a connection may hold in memory before it is understood.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Leading bits of an IPv6 address that tell callers apart: one subscriber has at least a /64.
const IPV6_CALLER_BITS: u32 = 64;

/// How many connections are held at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// By all callers together.
    pub connections: usize,
    /// By the programs of this machine together.
    pub loopback: usize,
    /// By one caller from elsewhere.
    pub stranger: usize,
}

/// Who calls, as far as its address tells; every request carries it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A program of this machine.
    Loopback,
    /// Another machine, or another network where that is all its address says.
    Stranger(IpAddr),
}

impl From<IpAddr> for Caller {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V4(address) => Self::Stranger(address.into()),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> (128 - IPV6_CALLER_BITS) << (128 - IPV6_CALLER_BITS);
                Self::Stranger(Ipv6Addr::from_bits(network).into())
            }
        }
    }
}

/// Serves `router` until `stop` resolves, then ends what is idle and waits for the requests begun.
pub async fn serve_bounded(
    mut listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()> + Send,
) {
    let seats = Seats(Arc::new(Mutex::new(Table { bounds, next: 0, seated: Vec::new() })));
    let stopping = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            (stream, address) = Listener::accept(&mut listener) => {
                match seats.take(address.ip().into()) {
                    Some((seat, cut)) => {
                        connections.spawn(converse(stream, router.clone(), seat, cut, stopping.subscribe()));
                    }
                    None => refuse(&stream),
                }
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    seats.table().cut_waiting();
    while connections.join_next().await.is_some() {}
}

/// Says so as far as that takes no time.
fn refuse(stream: &TcpStream) {
    // What has arrived is read first: a connection closed before would be reset, and the answer lost.
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(NO_PLACE);
}

async fn converse(
    stream: TcpStream,
    router: Router,
    seat: Arc<Seat>,
    cut: Arc<Notify>,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| respond(router.clone(), Turn::of(Arc::clone(&seat)), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEAD_TIMEOUT_S));
    builder.max_buf_size(MAX_HEAD_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = cut.notified() => return,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = cut.notified() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Resolves when the server stops; nothing of the channel is held on to meanwhile.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

async fn respond(
    mut router: Router,
    turn: Arc<Turn>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(|body| Body::new(Arriving::of(body, Arc::clone(&turn))));
    request.extensions_mut().insert(turn.seat.caller);
    let response = router.call(request).await?;
    turn.begin();
    Ok(response.map(|body| Body::new(Answer { body, _turn: turn })))
}

/// The connections held, shared with each.
struct Seats(Arc<Mutex<Table>>);

impl Seats {
    /// A seat, and what tells that it must be left; `None` when the bound is reached and everybody is being answered.
    fn take(&self, caller: Caller) -> Option<(Arc<Seat>, Arc<Notify>)> {
        let cut = Arc::new(Notify::new());
        let number = self.table().admit(caller, Arc::clone(&cut))?;
        Some((Arc::new(Seat { number, caller, table: Arc::clone(&self.0) }), cut))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }
}

/// No step under the lock can leave the table half changed.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Table {
    bounds: Bounds,
    next: u64,
    seated: Vec<Seated>,
}

struct Seated {
    number: u64,
    caller: Caller,
    /// The place in the order of those who wait for a request; `None` while one is answered.
    waiting: Option<u64>,
    cut: Arc<Notify>,
}

impl Table {
    fn admit(&mut self, caller: Caller, cut: Arc<Notify>) -> Option<u64> {
        let bound = match caller {
            Caller::Loopback => self.bounds.loopback,
            Caller::Stranger(_) => self.bounds.stranger,
        };
        if self.seated.iter().filter(|seated| seated.caller == caller).count() >= bound {
            self.displace(Some(caller))?;
        } else if self.seated.len() >= self.bounds.connections {
            self.displace(None)?;
        }
        let number = self.turn();
        self.seated.push(Seated { number, caller, waiting: Some(number), cut });
        Some(number)
    }

    /// Ends the connection that has waited longest, of one caller or of all.
    fn displace(&mut self, of: Option<Caller>) -> Option<()> {
        let candidates = self.seated.iter().filter(|seated| of.is_none_or(|caller| seated.caller == caller));
        let (_, number) = candidates.filter_map(|seated| Some((seated.waiting?, seated.number))).min()?;
        let place = self.seated.iter().position(|seated| seated.number == number)?;
        self.seated.swap_remove(place).cut.notify_one();
        Some(())
    }

    fn set_busy(&mut self, number: u64, busy: bool) {
        let waiting = (!busy).then(|| self.turn());
        if let Some(seated) = self.seated.iter_mut().find(|seated| seated.number == number) {
            seated.waiting = waiting;
        }
    }

    fn cut_waiting(&self) {
        self.seated.iter().filter(|seated| seated.waiting.is_some()).for_each(|seated| seated.cut.notify_one());
    }

    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// One connection's place in the table.
struct Seat {
    number: u64,
    caller: Caller,
    table: Arc<Mutex<Table>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.table).seated.retain(|seated| seated.number != self.number);
    }
}

/// A request: from its whole arrival its connection keeps its seat until the answer is written.
struct Turn {
    seat: Arc<Seat>,
    begun: AtomicBool,
}

impl Turn {
    fn of(seat: Arc<Seat>) -> Arc<Self> {
        Arc::new(Self { seat, begun: AtomicBool::new(false) })
    }

    fn begin(&self) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            lock(&self.seat.table).set_busy(self.seat.number, true);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.seat.table).set_busy(self.seat.number, false);
    }
}

/// A request's body, pieces of which have to come in time.
struct Arriving {
    body: Incoming,
    turn: Arc<Turn>,
    deadline: Pin<Box<Sleep>>,
}

impl Arriving {
    fn of(body: Incoming, turn: Arc<Turn>) -> Self {
        if body.is_end_stream() {
            turn.begin();
        }
        Self { body, turn, deadline: Box::pin(tokio::time::sleep(Self::patience())) }
    }

    const fn patience() -> Duration {
        Duration::from_secs(BODY_TIMEOUT_S)
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self
                .deadline
                .as_mut()
                .poll(context)
                .map(|()| Some(Err("the request's body did not arrive in time".into())));
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.turn.begin();
        }
        let deadline = tokio::time::Instant::now() + Self::patience();
        self.deadline.as_mut().reset(deadline);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which may be a long stream.
struct Answer {
    body: Body,
    _turn: Arc<Turn>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(last: u8) -> Caller {
        IpAddr::from([203, 0, 113, last]).into()
    }

    fn seats() -> Seats {
        let bounds = Bounds { connections: 5, loopback: 3, stranger: 2 };
        Seats(Arc::new(Mutex::new(Table { bounds, next: 0, seated: Vec::new() })))
    }

    #[test]
    fn a_caller_at_its_bound_displaces_only_itself() {
        let seats = seats();
        let other = seats.take(stranger(1)).unwrap();
        let greedy: Vec<_> = (0..10).map(|_| seats.take(stranger(2)).unwrap()).collect();
        let held = |caller| seats.table().seated.iter().filter(|seated| seated.caller == caller).count();
        assert_eq!((held(stranger(1)), held(stranger(2))), (1, 2));
        assert!(seats.table().seated.iter().any(|seated| seated.number == other.0.number));
        drop(greedy);
        assert_eq!((held(stranger(1)), held(stranger(2))), (1, 0));
    }

    #[test]
    fn a_request_being_answered_keeps_its_seat() {
        let seats = seats();
        let (first, _) = seats.take(stranger(1)).unwrap();
        let (second, _) = seats.take(stranger(1)).unwrap();
        let answering = [Turn::of(Arc::clone(&first)), Turn::of(Arc::clone(&second))];
        answering.iter().for_each(|turn| turn.begin());
        assert!(seats.take(stranger(1)).is_none());
        drop(answering);
        assert!(seats.take(stranger(1)).is_some());
        let held: Vec<_> = seats.table().seated.iter().map(|seated| seated.number).collect();
        assert!(!held.contains(&first.number), "the one that has waited longest goes");
    }

    #[test]
    fn callers_are_told_apart_by_machine_or_network() {
        let caller = |text: &str| Caller::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(caller("127.0.0.2"), Caller::Loopback);
        assert_eq!(caller("::1"), Caller::Loopback);
        assert_eq!(caller("::ffff:203.0.113.7"), stranger(7));
        assert_eq!(caller("2001:db8::1"), caller("2001:db8::ffff:1"));
        assert_ne!(caller("2001:db8::1"), caller("2001:db8:0:1::1"));
    }
}
