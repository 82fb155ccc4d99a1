//! One shared value that is replaced as a whole.

#[cfg(not(loom))]
mod imp {
    use std::sync::Arc;

    use arc_swap::ArcSwap;

    /// A shared value that is read without waiting and replaced as a whole.
    #[derive(Debug)]
    pub struct Swap<T>(ArcSwap<T>);

    impl<T> Swap<T> {
        /// Starts with `value`.
        pub fn new(value: T) -> Swap<T> {
            Swap(ArcSwap::from_pointee(value))
        }

        /// The value as it stands now.
        pub fn load(&self) -> Arc<T> {
            self.0.load_full()
        }

        /// Replaces the value. Replacements that build on the value before need a lock of their own.
        pub fn store(&self, value: T) {
            self.0.store(Arc::new(value));
        }
    }
}

/// The same contract in terms that the model checker sees.
#[cfg(loom)]
mod imp {
    use std::sync::Arc;

    use loom::sync::Mutex;

    /// A shared value that is replaced as a whole.
    #[derive(Debug)]
    pub struct Swap<T>(Mutex<Arc<T>>);

    impl<T> Swap<T> {
        /// Starts with `value`.
        pub fn new(value: T) -> Swap<T> {
            Swap(Mutex::new(Arc::new(value)))
        }

        /// The value as it stands now.
        pub fn load(&self) -> Arc<T> {
            self.0.lock().expect("no holder of this lock panics").clone()
        }

        /// Replaces the value.
        pub fn store(&self, value: T) {
            *self.0.lock().expect("no holder of this lock panics") = Arc::new(value);
        }
    }
}

pub use imp::Swap;
