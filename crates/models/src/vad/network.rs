//! How a recurrent network is run over the chunks of many sessions.
//!
//! Everything before the recurrence looks at one chunk only, so it is computed for all sessions and several chunks of
//! each at once; the recurrence itself goes chunk by chunk over all sessions that still have one. Sessions are
//! ordered by how much they handed in, so that these are always the first of the list.

use pulp::Simd;

use super::{CHUNK, CONTEXT, INPUT, SessionState, state::NetworkKind};

/// Chunks that pass through the encoder together: enough rows to fill the kernel's tiles, few enough to stay in the
/// second-level cache.
const ENCODE: usize = 16;
/// Chunks whose encoding is held at most (of each session at least one), which bounds the memory of long recordings.
const HELD: usize = 128;

/// A network that sees one chunk at a time and remembers the rest in its hidden state.
pub(super) trait Network: Sync {
    /// Its name in a stored state.
    const KIND: NetworkKind;
    /// Values of the hidden state of a session.
    const HIDDEN: usize;
    /// Values a chunk's encoding has: what the recurrence adds its own part to.
    const GATES: usize;
    /// Memory for intermediate results.
    type Scratch;

    /// Makes memory for `chunks` chunks at a time.
    fn scratch(&self, chunks: usize) -> Self::Scratch;

    /// Encodes chunks, each 64 samples of context and 512 new ones: `[chunks][576]` to `[chunks][GATES]`.
    fn encode<S: Simd>(&self, simd: S, scratch: &mut Self::Scratch, samples: &[f32], gates: &mut [f32]);

    /// Takes one step for each session: `hidden` is `[sessions][HIDDEN]`, `gates` is `[sessions][GATES]` and is used
    /// up, `probabilities` is `[sessions]`.
    fn step<S: Simd>(
        &self,
        simd: S,
        scratch: &mut Self::Scratch,
        hidden: &mut [f32],
        gates: &mut [f32],
        probabilities: &mut [f32],
    );
}

/// Sessions to be advanced on one thread. `audio[i]` is a whole number of chunks for `states[i]`.
pub(super) struct Advance<'a, 'b, N> {
    pub(super) network: &'a N,
    pub(super) states: &'a mut [&'b mut SessionState],
    pub(super) audio: &'a [&'a [f32]],
}

impl<N: Network> pulp::WithSimd for Advance<'_, '_, N> {
    /// One probability a chunk, per session.
    type Output = Vec<Vec<f32>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { network, states, audio } = self;
        let mut order: Vec<usize> = (0..audio.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(audio[i].len()));
        let steps = order.first().map_or(0, |&i| audio[i].len() / CHUNK);
        let mut results: Vec<Vec<f32>> =
            audio.iter().map(|samples| Vec::with_capacity(samples.len() / CHUNK)).collect();
        let mut hidden: Vec<f32> = order.iter().flat_map(|&i| states[i].hidden.iter().copied()).collect();

        let per_block = (HELD / audio.len().max(1)).max(1);
        let mut scratch = network.scratch(ENCODE);
        let mut samples = vec![0.0; ENCODE * INPUT];
        let mut gates = vec![0.0; per_block.min(steps) * audio.len() * N::GATES];
        let mut probabilities = vec![0.0; audio.len()];
        let mut rows = Vec::with_capacity(per_block * audio.len());
        for start in (0..steps).step_by(per_block) {
            rows.clear();
            for step in start..steps.min(start + per_block) {
                rows.extend(order.iter().take_while(|&&i| audio[i].len() > step * CHUNK).map(|&i| (step, i)));
            }
            for (rows, gates) in rows.chunks(ENCODE).zip(gates.chunks_mut(ENCODE * N::GATES)) {
                for (&(step, i), place) in rows.iter().zip(samples.chunks_exact_mut(INPUT)) {
                    if step == 0 {
                        place[..CONTEXT].copy_from_slice(&states[i].context);
                        place[CONTEXT..].copy_from_slice(&audio[i][..CHUNK]);
                    } else {
                        place.copy_from_slice(&audio[i][step * CHUNK - CONTEXT..(step + 1) * CHUNK]);
                    }
                }
                network.encode(simd, &mut scratch, &samples[..rows.len() * INPUT], &mut gates[..rows.len() * N::GATES]);
            }
            let mut gates = gates.as_mut_slice();
            for rows in rows.chunk_by(|a, b| a.0 == b.0) {
                let (now, later) = gates.split_at_mut(rows.len() * N::GATES);
                gates = later;
                network.step(
                    simd,
                    &mut scratch,
                    &mut hidden[..rows.len() * N::HIDDEN],
                    now,
                    &mut probabilities[..rows.len()],
                );
                for (&(_, i), &probability) in rows.iter().zip(&probabilities) {
                    results[i].push(probability);
                }
            }
        }

        for (&i, hidden) in order.iter().zip(hidden.chunks_exact(N::HIDDEN)) {
            states[i].hidden.copy_from_slice(hidden);
            if let Some((_, context)) = audio[i].split_last_chunk::<CONTEXT>() {
                states[i].context = *context;
            }
        }
        results
    }
}
