//! Encoded support sets in memory: each is encoded once, however many items wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inference::methods::FittedMethod;
use inference::support::EncodedSet;
use jobs::Stopped;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::api::{FewShotReport, LeftOut, SupportVersion};

/// Estimated number of sets in memory.
const ESTIMATED_ENTRIES: usize = 100;
/// Time after which examples that could not be used are tried again.
const RETRY_LEFT_OUT: Duration = Duration::from_secs(60);
/// Number of methods that a set keeps; each is smaller than the features of the set.
const FITTED_METHODS: usize = 16;
/// Maximum number of examples that a report names as unusable.
const MAX_NAMED: usize = 100;

/// The examples of a support set that can be used, and the others.
#[derive(Debug)]
pub struct UsableExamples {
    pub set: Arc<EncodedSet>,
    pub left_out: Vec<LeftOut>,
    made: Instant,
    /// Methods that have learnt from the set, by task and options.
    fitted: Cache<String, Arc<FittedMethod>>,
}

impl UsableExamples {
    /// Joins the encoded examples and the others.
    pub fn new(set: EncodedSet, left_out: Vec<LeftOut>) -> Self {
        Self { set: Arc::new(set), left_out, made: Instant::now(), fitted: Cache::new(FITTED_METHODS) }
    }

    /// Returns the method of `key` that has learnt from the set, or fits it. Others that ask for it meanwhile wait.
    ///
    /// # Errors
    /// Those of `fit`.
    pub async fn get_or_fit(
        &self,
        key: &str,
        fit: impl Future<Output = Result<FittedMethod, Stopped>>,
    ) -> Result<Arc<FittedMethod>, Stopped> {
        self.fitted.get_or_insert_async(key, async { fit.await.map(Arc::new) }).await
    }

    /// Returns the part of a report about the set.
    pub fn report(&self, support: SupportVersion) -> FewShotReport {
        let named = self.left_out.len().min(MAX_NAMED);
        FewShotReport {
            support,
            examples: self.set.len(),
            left_out: self.left_out[..named].to_vec(),
            more_left_out: self.left_out.len() - named,
        }
    }

    /// Whether examples that could not be used may be there by now.
    fn is_stale(&self) -> bool {
        !self.left_out.is_empty() && self.made.elapsed() > RETRY_LEFT_OUT
    }

    fn bytes(&self) -> u64 {
        let texts = |LeftOut { media, code, message }: &LeftOut| media.len() + code.len() + message.len();
        (self.set.bytes() + self.left_out.iter().map(texts).sum::<usize>() + size_of::<Self>()) as u64
    }
}

/// Weighs a set by its bytes.
#[derive(Clone)]
struct ByteWeighter;

impl Weighter<String, Arc<UsableExamples>> for ByteWeighter {
    fn weight(&self, _: &String, examples: &Arc<UsableExamples>) -> u64 {
        examples.bytes()
    }
}

/// Encoded sets within a byte budget; the least recently used ones are evicted first. Running items keep theirs.
pub struct EncodedSets(Cache<String, Arc<UsableExamples>, ByteWeighter>);

impl EncodedSets {
    /// Returns a cache with `bytes` of memory. A larger set is not kept, so each item encodes it.
    pub fn new(bytes: u64) -> Self {
        // One shard: an entry larger than a shard would be rejected.
        let options = OptionsBuilder::new()
            .shards(1)
            .weight_capacity(bytes.max(1))
            .estimated_items_capacity(ESTIMATED_ENTRIES)
            .build()
            .expect("both capacities are set");
        let hash = DefaultHashBuilder::default();
        Self(Cache::with_options(options, ByteWeighter, hash, DefaultLifecycle::default()))
    }

    /// Returns the set of `key`, or encodes it. Others that ask for it meanwhile wait; if `encode` fails or is dropped, one of
    /// them encodes.
    ///
    /// # Errors
    /// Those of `encode`.
    pub async fn get_or_encode(
        &self,
        key: String,
        encode: impl Future<Output = Result<UsableExamples, Stopped>>,
    ) -> Result<Arc<UsableExamples>, Stopped> {
        self.0.remove_if(&key, |examples| examples.is_stale());
        self.0.get_or_insert_async(&key, async { encode.await.map(Arc::new) }).await
    }
}
