//! Who publishes a volume, and who has its commits charged, is told when there may be something to do, and need not look
//! again and again.
//!
//! Invariant: told behind the change, and of the first one alone until it was dealt with. Locks are held meanwhile, so who is
//! told waits for nothing. Called by `volume`, `ahead`, `charges` and `follow`; `publish` and `run` listen.

use std::sync::Arc;

use super::locks::{Memory, Ordered};
use super::volume::Volume;

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// When the next commit is due is to be asked anew: of what is unpublished this is the first, the allowance is another, or
    /// a take-over came to no end.
    Due,
    /// A chunk is whole that can be sent: see [`Volume::take_whole`].
    Whole,
}

/// Who is told.
#[derive(Default)]
pub(super) struct Listener {
    news: Ordered<Option<Told>, Memory>,
    charges: Ordered<Option<Called>, Memory>,
}

type Told = Arc<dyn Fn(News) + Send + Sync>;
type Called = Arc<dyn Fn() + Send + Sync>;

impl Volume {
    /// Has `told` called from now on, in the place of who was told before.
    pub fn on_news(&self, told: impl Fn(News) + Send + Sync + 'static) {
        *self.listener.news.lock() = Some(Arc::new(told));
    }

    /// Has `called` called from now on when another commit is to be charged, in the place of who was called before.
    pub fn on_charge(&self, called: impl Fn() + Send + Sync + 'static) {
        *self.listener.charges.lock() = Some(Arc::new(called));
    }

    pub(super) fn tell(&self, news: News) {
        let told = self.listener.news.lock().clone();
        if let Some(told) = told {
            told(news);
        }
    }

    pub(super) fn tell_charge(&self) {
        let called = self.listener.charges.lock().clone();
        if let Some(called) = called {
            called();
        }
    }
}
