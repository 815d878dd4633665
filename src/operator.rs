//! The operator: wires store, Mesos session, controller and API together. I/O.
//!
//! A process stands by until it is elected, then leads until it loses that, then stands by again.
//! Standing by and leading share nothing but the board: whoever is elected starts from the store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::access::Access;
use crate::api::{self, ApiState, Limit};
use crate::board::{Board, Peer};
use crate::clock::now;
use crate::door::{Door, Gate, Threads};
use crate::failover::redis::{Prober, Redis, Term, Watches};
use crate::files;
use crate::mesos::{self, Masters};
use crate::metrics::Metrics;
use crate::open_files::{self, Shares};
use crate::passwords::Key;
use crate::peers;
use crate::reconcile::controller::Controller;
use crate::reconcile::draft::PlanSettings;
use crate::reconcile::execute::Input;
use crate::reconcile::leaving::LeavingAgents;
use crate::reconcile::mirror::{Mirror, Mirrored};
use crate::reconcile::parts::{Exit, Parts, Settings};
use crate::reconcile::reflector::reflect;
use crate::reconcile::repeats::Repeats;
use crate::reconcile::targets::Targets;
use crate::reconcile::view::stored_view;
use crate::reconcile::world::{Seen, World};
use crate::reconcile::{framework, keys};
use crate::sentinel;
use crate::settings::{Listen, OperatorSettings};
use crate::store::{Candidate, LEADER_KEY, Leadership, Process, Store};
use crate::tls;

mod local;
mod signals;

pub use local::run_local;

/// What the controller is told may queue up to this; whoever tells then waits.
const INPUTS_MAX: usize = 4096;
/// Probes that wait to be looked at.
const PROBES_MAX: usize = 4096;
/// Between two looks at a store that is not sound, and between two tries to reach one.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What every part of the process works with.
struct Operator {
    settings: OperatorSettings,
    masters: Masters,
    store: Store,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    /// What this process has seen of the store: see [`World::resuming`].
    seen: Arc<Mutex<Seen>>,
}

/// Runs the operator until it is told to stop (SIGINT, SIGTERM). Nodes run on without it.
pub async fn run(settings: OperatorSettings) -> Result<()> {
    open_files::raise_limit();
    let listener = TcpListener::bind(settings.listen).await.with_context(|| format!("--listen {}", settings.listen))?;
    let stop = signals::listen(false)?;
    let store = tokio::select! {
        store = open_store(&settings) => store?,
        () = stop.cancelled() => return Ok(()),
    };
    Box::pin(serve(settings, store, listener, stop)).await
}

async fn open_store(settings: &OperatorSettings) -> Result<Store> {
    let url = &settings.store;
    loop {
        match Store::open_as(url, settings.etcd.credentials()).await {
            Ok(store) => return Ok(store),
            Err(error) if url.starts_with("etcd") => {
                warn!("--store {url}: {error:#}; trying again");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn serve(settings: OperatorSettings, store: Store, listener: TcpListener, stop: CancellationToken) -> Result<()> {
    let board = Arc::new(Board::default());
    let metrics = Arc::new(Metrics::default());
    let masters = Masters::find(&settings.mesos, settings.mesos_tls)?;
    let access = Arc::new(Access::read(settings.auth_tokens.as_deref())?);
    settings.secrets().iter().for_each(files::keep_private);
    let state = ApiState {
        board: board.clone(),
        store: store.clone(),
        metrics: metrics.clone(),
        access,
        limit: Arc::new(Limit::new(settings.rate_limit)),
        hosts: settings.hosts().into(),
        peers: api::peers(settings.tls_ca.as_deref())?,
        mesos: Some(Arc::new(mesos_settings(&settings, &masters, &metrics))),
    };
    info!("API: {}", settings.advertise);
    let sentinel = sentinel_listener(&settings).await?;
    let (shares, threads) = (Shares::of_process(), Threads::start()?);
    let door = |name, listener, most| Door::new(listener, Gate::new(name, most, metrics.clone()));
    let tls = settings.tls().map(tls::Server::new).transpose()?;
    let me = peer(&settings, sentinel.as_ref())?;
    let api = door("api", listener, shares.api)?;
    let api = AbortOnDropHandle::new(threads.spawn(api::serve(api, tls, state.clone(), stop.clone())));
    let _peers = AbortOnDropHandle::new(tokio::spawn(peers::run(store.clone(), me.clone(), board.clone())));
    let _files = AbortOnDropHandle::new(tokio::spawn(open_files::watch(board.clone(), metrics.clone())));
    let _sentinel = match sentinel {
        Some(listener) => {
            info!("Sentinel: {}", me.sentinel.as_deref().unwrap_or_default());
            let sentinel = door("sentinel", listener, shares.sentinel)?;
            Some(AbortOnDropHandle::new(threads.spawn(sentinel::serve(sentinel, state, me.id, stop.clone()))))
        }
        None => None,
    };
    let operator = Operator { settings, masters, store, board, metrics, seen: Arc::default() };
    tokio::select! {
        outcome = operator.lead_for_ever() => outcome?,
        () = stop.cancelled() => {}
    }
    api.await.context("the API")??;
    Ok(())
}

async fn sentinel_listener(settings: &OperatorSettings) -> Result<Option<TcpListener>> {
    let Listen::At(address) = settings.sentinel_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("--sentinel-listen {address} (another address, or none, if a Redis Sentinel has this one)")
    })?;
    Ok(Some(listener))
}

/// What is said of this operator to the others.
fn peer(settings: &OperatorSettings, sentinel: Option<&TcpListener>) -> Result<Peer> {
    let sentinel = sentinel.map(TcpListener::local_addr).transpose().context("Sentinel's address")?;
    let sentinel = sentinel.map(|listen| {
        let everywhere = listen.ip().is_unspecified();
        if everywhere { format!("{}:{}", host_of(&settings.advertise), listen.port()) } else { listen.to_string() }
    });
    let api = settings.advertise.clone();
    let id = sentinel::run_id(&format!("{api} {}", sentinel.as_deref().unwrap_or_default()));
    Ok(Peer { id, api, sentinel })
}

/// The host in `http://host:port`.
fn host_of(url: &str) -> &str {
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

impl Operator {
    async fn lead_for_ever(&self) -> Result<()> {
        let (api, process) = (self.settings.advertise.clone(), Process::this());
        let me = Candidate { id: candidate_id(), api, process, frozen: false };
        loop {
            let (leadership, candidate) = Box::pin(self.stand_by(&me)).await;
            info!(id = candidate.id, "elected: this operator leads");
            self.board.set_operator(|o| {
                o.leading = true;
                o.leader = Some(candidate.clone());
            });
            let outcome = self.lead(leadership).await;
            self.board.set_operator(|o| o.leading = false);
            match outcome {
                Ok(Exit::NotLeader) => warn!("leadership is lost: standing by"),
                Ok(Exit::BeginAnew) => warn!("the framework is given up: a new one begins"),
                Err(error) => return Err(error),
            }
        }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// Shows what the store says until elected.
    async fn stand_by(&self, me: &Candidate) -> (Leadership, Candidate) {
        let mut mirror = Mirror::new(self.seen());
        loop {
            // It stands as what it knows: who leads by a store that is not sound is no proof that it is.
            let unsound = self.seen().unsound;
            let candidate = Candidate { frozen: unsound.is_some(), ..me.clone() };
            self.board.set_operator(|o| {
                o.mesos = "standby".to_string();
                o.mesos_message = String::new();
                o.frozen = unsound;
            });
            tokio::select! {
                leadership = self.campaign(&candidate) => {
                    let seen = mirror.world.seen().store;
                    let mut known = self.seen.lock().expect("no holder panics");
                    known.store = seen.or(known.store);
                    return (leadership, candidate);
                }
                () = self.mirror(&mut mirror) => {}
            }
        }
    }

    async fn campaign(&self, candidate: &Candidate) -> Leadership {
        let (ttl, mut repeats) = (Duration::from_millis(self.settings.leader_ttl.0), Repeats::default());
        loop {
            match self.store.campaign(candidate, ttl).await {
                Ok(leadership) => return leadership,
                Err(error) => {
                    if let Some(why) = repeats.say("campaign", &error.to_string(), now()) {
                        warn!("campaign: {why}; trying again");
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Puts on the board what the store says, until it is known to be sound no more, or to be sound again.
    async fn mirror(&self, mirror: &mut Mirror) {
        let (out, mut inputs) = mpsc::channel(INPUTS_MAX);
        let reflector = reflect(self.store.clone(), out.clone(), Arc::default());
        let _reflector = AbortOnDropHandle::new(tokio::spawn(reflector));
        let _keep = out;
        let mut repeats = Repeats::default();
        while let Some(input) = inputs.recv().await {
            let event = match input {
                Input::Event(event) => event,
                Input::StoreLost(reason) => {
                    if let Some(reason) = repeats.say("store", &reason, now()) {
                        warn!("store: {reason}");
                    }
                    self.board.set_operator(|o| o.store_synced = false);
                    continue;
                }
                Input::Done { .. } => continue,
            };
            match mirror.apply(event, now()) {
                Mirrored::Shown { dirty, leader } => {
                    if leader {
                        self.show_leader().await;
                        self.board.set_operator(|o| o.store_synced = true);
                    }
                    self.show(&mirror.world, dirty);
                }
                Mirrored::Old(why) => {
                    self.board.set_operator(|o| o.store_synced = false);
                    if let Some(why) = why {
                        warn!("{why}");
                        self.seen.lock().expect("no holder panics").unsound = Some(why);
                        return;
                    }
                }
                Mirrored::ListAgain => {
                    info!("an operator that was started since leads: the store is taken for sound again");
                    *self.seen.lock().expect("no holder panics") = Seen::default();
                    return;
                }
            }
        }
    }

    async fn show_leader(&self) {
        let leader = self.store.get(LEADER_KEY).await.ok().flatten();
        let leader: Option<Candidate> = leader.and_then(|item| serde_json::from_slice(&item.value).ok());
        self.board.set_operator(|o| o.leader = leader);
    }

    fn show(&self, world: &World, dirty: crate::reconcile::world::Dirty) {
        let mut names = dirty.names;
        if dirty.all {
            names.extend(world.instances.keys().cloned());
            names.extend(self.board.list().iter().map(|view| view.name.clone()));
        }
        for name in names {
            match world.instances.get(&name) {
                Some(instance) => self.board.set(stored_view(&name, instance)),
                None => self.board.remove(&name),
            }
        }
    }

    async fn lead(&self, leadership: Leadership) -> Result<Exit> {
        let leadership = Arc::new(leadership);
        let mut held = leadership.held.clone();
        let (framework_id, key) = tokio::select! {
            _ = held.wait_for(|held| !held) => return Ok(Exit::NotLeader),
            sound = async { (self.sound_framework().await, self.key(&leadership).await) } => sound,
        };
        let (out, inputs) = mpsc::channel(INPUTS_MAX);
        let (results, outcomes) = mpsc::channel(PROBES_MAX);
        let relist = Arc::new(Notify::new());
        let lasts = leadership.clone();
        let term = Term { number: leadership.token.created, lasts: Arc::new(move || lasts.is_held()) };
        let lasts = leadership.clone();
        let lease = mesos::Lease(Arc::new(move || lasts.is_held()));
        let mesos_settings = mesos::Settings { lease, ..self.mesos_settings() };
        let redis = Redis::new(Duration::from_millis(self.settings.redis_timeout.0), term);
        let watches = Watches::new(redis.clone(), results.clone());
        let prober = Prober::start(redis.clone(), results);
        let reflector = reflect(self.store.clone(), out.clone(), relist.clone());
        let _reflector = AbortOnDropHandle::new(tokio::spawn(reflector));
        let interval = Duration::from_millis(self.settings.probe_interval.0);
        let parts = Parts {
            store: self.store.clone(),
            leadership,
            mesos: mesos::Session::start(mesos_settings, framework_id.clone())?,
            probes: (Targets::new(redis.clone(), prober, watches, interval, Some(key.clone())), outcomes),
            redis,
            inputs: (out, inputs),
            relist,
            seen: self.seen.clone(),
            board: self.board.clone(),
            metrics: self.metrics.clone(),
        };
        let settings = Settings {
            plan: PlanSettings { redis_server: self.settings.redis_server.clone(), key: Some(key) },
            resync_interval: Duration::from_millis(self.settings.resync_interval.0),
            passes_max: self.settings.reconcile_concurrency,
            rolling_max: self.settings.rolling_max,
        };
        let seen = self.seen();
        let leaving = LeavingAgents::new(self.settings.drain_ahead.0);
        Controller::new(settings, parts, World::resuming(seen, framework_id, leaving)).run().await
    }

    /// The framework id that the store has. None: a new framework is registered, which is right
    /// only where nothing is recorded and Mesos has no tasks of ours; until that is so, waits.
    async fn sound_framework(&self) -> Option<String> {
        loop {
            match framework::find(&self.store, &self.mesos_settings()).await {
                Ok(Ok(framework_id)) => {
                    self.board.set_operator(|o| o.frozen = None);
                    return framework_id;
                }
                Ok(Err(reason)) => {
                    if self.board.operator().frozen.as_ref() != Some(&reason) {
                        error!("frozen, nothing is launched or killed: {reason}");
                    }
                    self.board.set_operator(|o| o.frozen = Some(reason));
                }
                Err(error) => warn!("store: {error:#}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What passwords follow from; made by the first leader.
    async fn key(&self, leadership: &Leadership) -> Key {
        loop {
            match keys::find_or_make(&self.store, leadership).await {
                Ok(Ok(key)) => return key,
                Ok(Err(reason)) => {
                    if self.board.operator().frozen.as_ref() != Some(&reason) {
                        error!("frozen, nothing is launched or killed: {reason}");
                    }
                    self.board.set_operator(|o| o.frozen = Some(reason));
                }
                Err(error) => warn!("store: {error:#}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn mesos_settings(&self) -> mesos::Settings {
        mesos_settings(&self.settings, &self.masters, &self.metrics)
    }
}

fn mesos_settings(settings: &OperatorSettings, masters: &Masters, metrics: &Arc<Metrics>) -> mesos::Settings {
    mesos::Settings {
        masters: masters.clone(),
        ca_file: settings.mesos_ca.clone(),
        roles: settings.role.split(',').map(ToString::to_string).collect(),
        remote_regions: settings.remote_regions,
        principal: settings.principal.clone(),
        secret_file: settings.secret_file.as_ref().map(mesos::SecretFile::from),
        user: settings.user.clone(),
        name: settings.framework_name.clone(),
        failover_timeout_s: Duration::from_millis(settings.failover_timeout.0).as_secs_f64(),
        webui_url: Some(settings.advertise.clone()),
        containerizer: settings.containerizer,
        metrics: metrics.clone(),
        ..mesos::Settings::default()
    }
}

fn candidate_id() -> String {
    format!("{}-{:08x}", std::process::id(), rand::random::<u32>())
}
