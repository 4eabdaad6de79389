//! The two threads that own the model, and their policy: who looks, who writes, and how much of it at once.
//!
//! Everybody else asks them through channels. One sends frames of several videos side by side through the vision encoder;
//! the other writes answers side by side, one token of each per step, and answers join and leave between steps. So
//! decoding, looking and writing go on at the same time, and nobody waits for a whole answer or a whole video of another.
//! Who is next is decided by `Turns`; what one job was given, the others get too.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::time::Instant;

use flamingo::family::ModelInfo;
use flamingo::generate::{self, Decoder, Generation, KvReservation, Sequence};
use flamingo::kernels::threads::on_rayon;
use flamingo::language::kv_cache::BLOCK;
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::video::Frame;
use flamingo::{Error, Result, Task};
use tracing::Span;

use crate::model::{Model, ModelError, Turn};
use crate::seen::SeenWindow;

mod limits;
mod load;
mod media;
mod spans;
mod turns;

pub use limits::EngineLimits;
use limits::block_bytes;
use load::Waits;
pub use load::{Load, Meter, Work};
use media::KeysInUse;
use turns::Turns;

/// A way to the model for many threads at once. The engine ends when the last of them is gone.
#[derive(Clone)]
pub struct Engine {
    /// For what needs no turn: descriptions, prompts, resizing frames in the thread that decodes them.
    pipeline: Arc<Pipeline>,
    /// Nobody fills these: whoever asks waits for the answer.
    looks: Sender<Looking>,
    writes: Sender<Writing>,
    meter: Meter,
}

/// What the engine is asked, and where it answers. Nobody may be listening any more.
struct Looking {
    prepared: Vec<Frame>,
    turn: Turn,
    waits: Option<Waits>,
    span: Span,
    answer: Sender<Result<Medium, ModelError>>,
}

struct Writing {
    /// Which of the tasks that were asked together.
    number: usize,
    task: Task,
    prompt: Vec<u32>,
    media: Vec<Medium>,
    generation: Generation,
    turn: Turn,
    waits: Option<Waits>,
    /// Ends with it.
    span: Span,
    answer: Sender<(usize, Result<Answer, ModelError>)>,
}

impl Engine {
    /// Makes room for what is written, and starts the threads.
    ///
    /// # Errors
    /// The device has no room, or `kv_bytes` is less than one block.
    pub fn start(pipeline: Pipeline, limits: EngineLimits) -> Result<Self> {
        let pipeline = Arc::new(pipeline);
        let (looks, to_look) = channel();
        let (writes, to_write) = channel();
        let (began, begun) = channel();
        let meter = Meter::new(limits);
        let (owned, noted) = (pipeline.clone(), meter.clone());
        thread("looks", move || Looks::new(&owned, noted).go_on(&to_look));
        let (owned, noted) = (pipeline.clone(), meter.clone());
        thread("writes", move || match Writes::new(&owned, noted) {
            Ok(work) => {
                let _ = began.send(Ok(()));
                work.go_on(&to_write);
            }
            Err(error) => {
                let _ = began.send(Err(error));
            }
        });
        begun.recv().expect("the engine says how it began")?;
        Ok(Self { pipeline, looks, writes, meter })
    }

    /// Where to read how busy it is.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether a failing model means a failing device.
    pub fn is_on_cpu(&self) -> bool {
        self.pipeline.options().device.is_cpu()
    }

    /// Which model answers and how exactly: what one has seen is nothing to another.
    pub fn revision(&self) -> String {
        let ModelInfo { name, sha256, .. } = self.about();
        format!("{name} {sha256:?} {:?}", self.pipeline.options().dtype)
    }
}

impl Model for Engine {
    fn about(&self) -> &ModelInfo {
        &self.pipeline.loaded().info
    }

    fn prepare(&self, frame: &Frame) -> Frame {
        self.pipeline.prepare(frame)
    }

    fn look(&self, prepared: Vec<Frame>, turn: &Turn) -> Result<Medium, ModelError> {
        let (answer, heard) = channel();
        let span = spans::looking(prepared.len());
        let waits = Some(self.meter.waits(|load| &mut load.looking));
        let looking = Looking { prepared, turn: turn.clone(), waits, span: span.clone(), answer };
        let sent = self.looks.send(looking).map_err(|_| ModelError::Gone);
        let looked = sent.and_then(|()| heard.recv().map_err(|RecvError| ModelError::Gone)?);
        looked.inspect_err(|error| spans::failed(&span, error))
    }

    fn recall(&self, seen: &SeenWindow) -> Result<Medium, ModelError> {
        let span = spans::recalling(seen.frame_times.len());
        Model::recall(&*self.pipeline, seen).inspect_err(|error| spans::failed(&span, error))
    }

    /// All at once: they are written side by side.
    fn ask(
        &self,
        tasks: &[Task],
        media: &[&Medium],
        generation: &Generation,
        turn: &Turn,
    ) -> Vec<Result<Answer, ModelError>> {
        let (answer, heard) = channel();
        let mut answers: Vec<Result<Answer, ModelError>> =
            tasks.iter().map(|_| Err(ModelError::Gone)).collect();
        for (number, task) in tasks.iter().enumerate() {
            let (turn, generation) = (turn.clone(), generation.clone());
            match self.pipeline.prompt(task, media.len()) {
                Ok(prompt) => {
                    let media = media.iter().map(|&medium| medium.clone()).collect();
                    let (task, answer) = (task.clone(), answer.clone());
                    let span = spans::answering(&self.about().name, &generation);
                    let waits = Some(self.meter.waits(|load| &mut load.writing));
                    let writing =
                        Writing { number, task, prompt, media, generation, turn, waits, span, answer };
                    // Who is gone does not answer, below.
                    let _ = self.writes.send(writing);
                }
                Err(error) => answers[number] = Err(error.into()),
            }
        }
        drop(answer);
        for (number, answer) in heard {
            answers[number] = answer;
        }
        answers
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(work).expect("a process that starts can start a thread");
}

/// Waits for one if there is nothing else to do, and takes all that are there; false: nobody will ask any more.
fn hear<T>(heard: &Receiver<T>, idle: bool, mut take: impl FnMut(T)) -> bool {
    if idle {
        let Ok(asked) = heard.recv() else { return false };
        take(asked);
    }
    heard.try_iter().for_each(take);
    true
}

/// All that is to be looked at.
struct Looks<'p> {
    pipeline: &'p Pipeline,
    waiting: Turns<Looking>,
    meter: Meter,
}

impl<'p> Looks<'p> {
    fn new(pipeline: &'p Pipeline, meter: Meter) -> Self {
        Self { pipeline, waiting: Turns::default(), meter }
    }

    fn go_on(mut self, heard: &Receiver<Looking>) {
        while hear(heard, self.waiting.is_empty(), |looking| {
            let (turn, frames) = (looking.turn.clone(), looking.prepared.len());
            self.waiting.push(&turn, frames as u64, looking);
        }) {
            for looking in self.waiting.remove_if(|looking| looking.turn.stop.is_set()) {
                let _ = looking.answer.send(Err(ModelError::Unwanted));
            }
            on_rayon(|| {
                let start = Instant::now();
                self.look();
                self.meter.note(|load| load.looking.busy += start.elapsed());
            });
        }
    }

    /// One pass of the vision encoder over the frames of those whose turn it is.
    fn look(&mut self) {
        let (mut batch, mut frames) = (Vec::new(), 0);
        while let Some(next) = self.waiting.peek() {
            frames += next.prepared.len();
            if frames > self.meter.limits().frames && !batch.is_empty() {
                break;
            }
            let Some(mut looking) = self.waiting.pop() else { break };
            looking.waits = None;
            spans::turn(&looking.span);
            batch.push(looking);
        }
        if batch.is_empty() {
            return;
        }
        let prepared: Vec<&[Frame]> = batch.iter().map(|looking| &looking.prepared[..]).collect();
        match self.pipeline.encode_batch(&prepared) {
            Ok(media) => {
                for (looking, medium) in batch.iter().zip(media) {
                    let _ = looking.answer.send(Ok(medium));
                }
            }
            // What one of them is guilty of is nothing to the others.
            Err(_) => {
                for looking in &batch {
                    let looked = self.pipeline.encode(&looking.prepared).map_err(ModelError::from);
                    let _ = looking.answer.send(looked);
                }
            }
        }
        self.meter.note(|load| load.looking.passes += 1);
    }
}

/// An answer that is being written.
struct Begun {
    writing: Writing,
    demand: KvReservation,
    sequence: Sequence,
}

/// All that is to be written.
struct Writes<'p> {
    pipeline: &'p Pipeline,
    decoder: Decoder<'p>,
    keys: KeysInUse,
    waiting: Turns<Writing>,
    begun: Vec<Begun>,
    meter: Meter,
}

impl<'p> Writes<'p> {
    fn new(pipeline: &'p Pipeline, meter: Meter) -> Result<Self> {
        let limits = meter.limits();
        let model = &pipeline.loaded().model;
        let block = block_bytes(model);
        let blocks = (limits.kv_bytes / block) as usize;
        if blocks == 0 {
            return Err(Error::OverBudget(format!(
                "{} bytes of keys and values are less than one block of {BLOCK} tokens, {block} bytes",
                limits.kv_bytes
            )));
        }
        Ok(Self {
            pipeline,
            decoder: Decoder::new(model, blocks)?,
            keys: KeysInUse::new(limits.media_bytes),
            waiting: Turns::default(),
            begun: Vec::new(),
            meter,
        })
    }

    fn go_on(mut self, heard: &Receiver<Writing>) {
        let mut idle = true;
        while hear(heard, idle, |writing| self.take(writing)) {
            self.let_go_of_unwanted();
            on_rayon(|| {
                let start = Instant::now();
                self.begin();
                self.note();
                self.step();
                self.note();
                self.meter.note(|load| load.writing.busy += start.elapsed());
            });
            idle = self.waiting.is_empty() && self.begun.is_empty();
        }
    }

    fn note(&self) {
        let block = block_bytes(&self.pipeline.loaded().model);
        self.meter.note(|load| {
            load.rows = self.rows();
            load.kv_bytes = (self.decoder.blocks() - self.decoder.free_blocks()) as u64 * block;
            load.media_bytes = self.keys.bytes();
        });
    }

    /// What those that are being written may come to have.
    fn rows(&self) -> usize {
        self.begun.iter().map(|begun| begun.demand.rows).sum()
    }

    fn take(&mut self, writing: Writing) {
        let (turn, demand) = (writing.turn.clone(), demand(&writing));
        match self.refuses(&writing, &demand) {
            Some(error) => tell(&writing, Err(error.into())),
            None => self.waiting.push(&turn, demand.blocks() as u64, writing),
        }
    }

    /// What will never be written is said at once.
    fn refuses(&self, writing: &Writing, demand: &KvReservation) -> Option<Error> {
        let model = &self.pipeline.loaded().model;
        let checked = writing
            .generation
            .check()
            .and_then(|()| generate::check_length(model, demand.prompt, demand.new_tokens));
        if let Err(error) = checked {
            return Some(error);
        }
        let over = demand.blocks() > self.decoder.blocks();
        over.then(|| {
            let (needed, there) = (generate::describe(demand), self.decoder.blocks());
            Error::OverBudget(format!("{needed}, the engine has {there} in all (engine.kv_bytes)"))
        })
    }

    fn let_go_of_unwanted(&mut self) {
        let Self { waiting, begun, decoder, .. } = self;
        for writing in waiting.remove_if(|writing| writing.turn.stop.is_set()) {
            tell(&writing, Err(ModelError::Unwanted));
        }
        for mut gone in begun.extract_if(.., |begun| begun.writing.turn.stop.is_set()) {
            gone.sequence.retire(decoder);
            tell(&gone.writing, Err(ModelError::Unwanted));
        }
    }

    /// Begins the answers whose turn it is, as long as there is room. Nobody overtakes one that has none: it would wait
    /// for ever.
    fn begin(&mut self) {
        while let Some(next) = self.waiting.peek() {
            let demand = demand(next);
            let rows = self.rows();
            let too_many = rows > 0 && rows + demand.rows > self.meter.limits().rows;
            if too_many || demand.blocks() > self.decoder.free_blocks() {
                return;
            }
            let Some(mut writing) = self.waiting.pop() else { return };
            writing.waits = None;
            spans::turn(&writing.span);
            match self.begin_one(&writing) {
                Ok(sequence) => self.begun.push(Begun { writing, demand, sequence }),
                Err(error) => tell(&writing, Err(error.into())),
            }
        }
    }

    fn begin_one(&mut self, writing: &Writing) -> Result<Sequence> {
        let keys = writing
            .media
            .iter()
            .map(|medium| self.keys.of(self.pipeline, medium))
            .collect::<Result<Vec<_>>>()?;
        let rules = &self.pipeline.loaded().stop_criteria;
        Sequence::begin(&mut self.decoder, &writing.prompt, &keys, &writing.generation, rules)
    }

    /// One token more for everybody.
    fn step(&mut self) {
        if self.begun.is_empty() {
            return;
        }
        self.meter.note(|load| load.writing.passes += 1);
        let Ok(scores) = self.decoder.step() else { return self.each_alone() };
        let mut going_on = Vec::with_capacity(self.begun.len());
        for mut begun in self.begun.drain(..) {
            match begun.sequence.advance(&mut self.decoder, &scores) {
                Ok(None) => going_on.push(begun),
                Ok(Some(written)) => {
                    let Writing { task, prompt, .. } = &begun.writing;
                    let answer = self.pipeline.read(task, prompt.len(), &written);
                    tell(&begun.writing, answer.map_err(ModelError::from));
                }
                Err(error) => {
                    begun.sequence.retire(&mut self.decoder);
                    tell(&begun.writing, Err(error.into()));
                }
            }
        }
        self.begun = going_on;
    }

    /// A step has failed: each is written from the beginning, so that what one is guilty of is nothing to the others.
    fn each_alone(&mut self) {
        for mut begun in self.begun.drain(..) {
            begun.sequence.retire(&mut self.decoder);
            let Writing { task, media, generation, .. } = &begun.writing;
            let media: Vec<_> = media.iter().collect();
            tell(&begun.writing, self.pipeline.ask(task, &media, generation).map_err(ModelError::from));
        }
    }
}

fn demand(writing: &Writing) -> KvReservation {
    Sequence::reservation(writing.prompt.len(), &writing.generation)
}

fn tell(writing: &Writing, answer: Result<Answer, ModelError>) {
    spans::answered(&writing.span, &answer);
    let _ = writing.answer.send((writing.number, answer));
}
