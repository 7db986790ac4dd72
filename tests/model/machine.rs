//! The state machine that draws sequences, runs them, and makes those that fail short.

use std::marker::PhantomData;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use super::call::{Call, Event, System};
use super::check::Checked;
use super::draw;
use super::oracle::{Answer, Outcome, Reference};

/// Calls in a sequence, at most.
const LONGEST: usize = 120;

/// A system under test, as a state machine.
pub(crate) struct Machine<T>(PhantomData<T>);

/// The reference, and what it has answered last.
#[derive(Clone)]
pub(crate) struct State {
    quota: u64,
    reference: Reference,
    outcome: Outcome,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "quota {}", self.quota)
    }
}

impl State {
    fn new<T: System>(quota: u64) -> Self {
        let begins = T::EVENTS.iter().any(|(_, event)| *event == Event::Cut);
        Self {
            quota,
            reference: Reference::new(T::room(quota), T::small_room(quota), begins),
            outcome: Ok(Answer::Done),
        }
    }
}

impl<T: System> ReferenceStateMachine for Machine<T> {
    type State = State;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<State> {
        proptest::sample::select(T::QUOTAS)
            .prop_map(State::new::<T>)
            .boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Call> {
        draw::call::<T>(&state.reference)
    }

    fn preconditions(state: &State, call: &Call) -> bool {
        // Room behind a file's end lasts as long as a descriptor, and what it takes of the quota is `fs::tests::room`'s.
        state.reference.is_told(call) && !state.reference.keeps_room(call)
    }

    fn apply(mut state: State, call: &Call) -> State {
        state.outcome = state.reference.call(call);
        state
    }
}

impl<T: System> StateMachineTest for Machine<T> {
    type SystemUnderTest = Checked<T>;
    type Reference = Self;

    fn init_test(state: &State) -> Checked<T> {
        Checked::fresh(state.quota)
    }

    fn apply(mut checked: Checked<T>, state: &State, call: Call) -> Checked<T> {
        if let Err(why) = checked.call(&state.reference, &state.outcome, &call) {
            panic!("{why}");
        }
        checked
    }

    fn teardown(mut checked: Checked<T>, state: State) {
        if let Err(why) = checked.all(&state.reference) {
            panic!("{why}");
        }
    }
}

/// A sequence that fails, as short as it could be made.
pub(crate) struct Failure {
    /// What went wrong.
    pub why: String,
    /// The quota that it had, in bytes.
    pub quota: u64,
    /// The calls.
    pub calls: Vec<Call>,
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}\nwith a quota of {} bytes, after",
            self.why, self.quota
        )?;
        self.calls
            .iter()
            .try_for_each(|call| writeln!(f, "  {call:?},"))
    }
}

/// Runs `sequences` random sequences, which follow from `seed`.
///
/// # Errors
/// The first that fails.
pub(crate) fn run<T: System>(sequences: u32, seed: u64) -> Result<(), Box<Failure>> {
    let config = Config {
        cases: sequences,
        max_shrink_iters: 4000,
        failure_persistence: None,
        max_local_rejects: u32::MAX,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config.clone(), rng);
    let drawn = Machine::<T>::sequential_strategy(1..=LONGEST);
    let result = runner.run(&drawn, |(state, calls, seen)| {
        Machine::<T>::test_sequential(config.clone(), state, calls, seen);
        Ok(())
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, (state, calls, _))) => Err(Box::new(Failure {
            why: why.to_string(),
            quota: state.quota,
            calls,
        })),
        Err(why) => panic!("{why}"),
    }
}

/// Runs one sequence.
#[track_caller]
pub(crate) fn replay<T: System>(quota: u64, calls: Vec<Call>) {
    Machine::<T>::test_sequential(Config::default(), State::new::<T>(quota), calls, None);
}
