//! What the hot path's shared words are made of: std's, and in models (`cargo model`) loom's, which tries the orders in which
//! threads can come. The one file that knows the difference.

#[cfg(not(all(test, feature = "model")))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64},
};

#[cfg(all(test, feature = "model"))]
pub(crate) use {
    self::modelled::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, explore},
    loom::sync::Mutex,
};

/// Loom's atomics, with what it leaves out put back: to it, `SeqCst` on an access says no more than acquire and release, so it would
/// find orders in which two threads each miss what the other wrote, which std rules out. It knows the fence; so one stands between
/// any two `SeqCst` accesses of a thread. A fence also orders what is weaker around it; to keep that small, there is none beside a
/// single such access.
#[cfg(all(test, feature = "model"))]
#[expect(clippy::allow_attributes, reason = "the next line, in a macro")]
#[allow(
    dead_code,
    reason = "the types have what std's have, whether it is used or not"
)]
mod modelled {
    use std::cell::Cell;
    use std::sync::atomic::{
        AtomicUsize,
        Ordering::{self, Relaxed, SeqCst},
    };

    loom::thread_local! {
        static FENCED: Cell<bool> = Cell::new(false);
    }

    fn ordered(order: Ordering) -> Ordering {
        if order == SeqCst && FENCED.with(|before| before.replace(true)) {
            loom::sync::atomic::fence(SeqCst);
        }
        order
    }

    macro_rules! atomic {
        ($($name:ident: $value:ty),*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            impl From<$value> for $name {
                fn from(value: $value) -> Self {
                    Self::new(value)
                }
            }

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.0.load(ordered(order))
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, ordered(order));
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, ordered(order))
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange(current, new, ordered(success), failure)
                }

                /// As std has it: a load, and then attempts.
                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    mut update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    let mut value = self.load(fetch);
                    while let Some(next) = update(value) {
                        match self.compare_exchange_weak(value, next, set, fetch) {
                            Ok(value) => return Ok(value),
                            Err(other) => value = other,
                        }
                    }
                    Err(value)
                }
            }
        )*};
    }

    macro_rules! arithmetic {
        ($($name:ident: $value:ty),*) => {$(
            impl $name {
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_add(value, ordered(order))
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_sub(value, ordered(order))
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_max(value, ordered(order))
                }
            }
        )*};
    }

    /// All that loom can have: the model's own, the one that it runs in, and one that waits for it.
    const THREADS: usize = 5;

    /// The stack of a model, in words: loom gives a thread 32 KiB, and a book with its policy passes through several frames of
    /// unoptimised code.
    const STACK_WORDS: usize = 0x8000;

    /// Runs a model in every order that its threads can come in, or in all with so many preemptions at most.
    pub(crate) fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
        let runs = std::sync::Arc::new(AtomicUsize::new(0));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions.or(builder.preemption_bound);
        builder.max_threads = THREADS;
        let counted = std::sync::Arc::clone(&runs);
        let model = std::sync::Arc::new(model);
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            let model = std::sync::Arc::clone(&model);
            let thread = loom::thread::Builder::new().stack_size(STACK_WORDS);
            let ran = thread
                .spawn(move || model())
                .map(loom::thread::JoinHandle::join);
            assert!(matches!(ran, Ok(Ok(()))), "the model panicked");
        });
        let name = std::thread::current().name().map(String::from);
        println!(
            "{}: {} orders",
            name.unwrap_or_default(),
            runs.load(Relaxed)
        );
    }

    atomic!(AtomicBool: bool, AtomicI64: i64, AtomicU8: u8, AtomicU32: u32, AtomicU64: u64);
    arithmetic!(AtomicI64: i64, AtomicU32: u32, AtomicU64: u64);
}
