//! The search stage: transcripts in, search responses out.
