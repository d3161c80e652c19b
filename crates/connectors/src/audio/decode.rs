//! Compressed or not, in any of the formats: decoded block by block and mixed to one channel.
//!
//! Memory is bounded by the largest packet of the format, never by the file. A packet that cannot
//! be decoded is a gap of known length, which the caller fills. Nothing in a file makes this
//! panic: a decoder that does is caught and the file refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use symphonia::core::{
    audio::Channels,
    codecs::audio::{
        AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
        well_known::{CODEC_ID_FLAC, CODEC_ID_MP3, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_MULAW, CODEC_ID_VORBIS},
    },
    errors::Error,
    formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
    io::{MediaSource, MediaSourceStream},
    meta::MetadataOptions,
    packet::Packet,
};

use super::{
    refused::Refused,
    wav::{WavFile, WavHeader},
};
use crate::files;

/// Suffixes of the files that are read, in lower case.
pub(crate) const SUFFIXES: [&str; 6] = ["wav", "wave", "flac", "mp3", "ogg", "oga"];

/// Least and most samples a second.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;
/// Most channels.
const MAX_CHANNELS: usize = 32;
/// A gap longer than this, in seconds, is a damaged time stamp and no gap.
const MAX_GAP_S: u64 = 60;

/// A block of decoded audio.
#[derive(Default)]
pub(crate) struct Block {
    /// Frames lost right before this block.
    pub lost: u64,
    /// The mean of the channels, in [-1, 1].
    pub mono: Vec<f32>,
    /// Frames of `mono` with samples at full scale, once for each such sample, ascending.
    pub clipped: Vec<u32>,
}

/// Decodes one recording.
pub(crate) struct Decoder {
    format: Box<dyn FormatReader>,
    stream: Stream,
    max_seconds: u64,
    /// Frames so far, lost ones included.
    frames: u64,
    interleaved: Vec<f32>,
}

/// One stream of the file: all of it, but where Ogg files were put one after another.
struct Stream {
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    rate: u32,
    channels: u16,
    /// The least magnitude that counts as full scale.
    full_scale: f32,
    /// Whether the time stamps of packets show gaps.
    stamped: bool,
    /// Frames of the recording before it.
    begin: u64,
    /// Frames of the recording up to its end, as the header claims.
    claimed: Option<u64>,
}

impl Stream {
    /// Opens the stream that the format has come to, `begin` frames into the recording.
    fn open(format: &dyn FormatReader, begin: u64, wav: Option<WavHeader>, max_seconds: u64) -> Result<Self, Refused> {
        let place = if begin == 0 { "header".to_owned() } else { format!("frame {begin}") };
        let track = format.default_track(TrackType::Audio);
        let params = track.and_then(|track| track.codec_params.as_ref()).and_then(|params| params.audio());
        let (Some(track), Some(params)) = (track, params) else {
            return Err(Refused::new(place, "no audio track", formats()));
        };
        let channels = params.channels.as_ref().map_or(0, Channels::count);
        let rate = params.sample_rate.unwrap_or(0);
        allowed(&place, rate, channels)?;

        // Without the encoder's own word about its delay, the length of an MP3 is a guess by its
        // bit rate: it must not trim the end.
        let exact = params.codec != CODEC_ID_MP3 || track.delay.is_some();
        let options = AudioDecoderOptions::default().gapless(exact);
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &options)
            .map_err(|error| Refused::new("codec", describe(&error), formats()))?;
        let frames = match wav {
            Some(header) => header.claimed_frames(),
            None if params.codec == CODEC_ID_MP3 => None,
            None => track.num_frames,
        };
        let claimed = frames.map(|frames| begin.saturating_add(frames));
        if let Some(seconds) = claimed.map(|frames| frames / u64::from(rate)).filter(|&s| s > max_seconds) {
            return Err(too_long(&place, seconds, max_seconds));
        }
        Ok(Self {
            decoder,
            track: track.id,
            rate,
            channels: channels as u16,
            full_scale: full_scale(params),
            stamped: params.codec == CODEC_ID_FLAC,
            begin,
            // The last page of an Ogg stream does not tell where the first one began.
            claimed: claimed.filter(|_| params.codec != CODEC_ID_VORBIS),
        })
    }
}

impl Decoder {
    /// Opens a recording. One that is, or claims to be, longer than `max_seconds` is refused.
    ///
    /// # Errors
    /// If the file cannot be read or is no recording of the formats, rates and channels allowed.
    pub(crate) fn open(path: &Path, max_seconds: u64) -> Result<Self, Refused> {
        let unreadable = |error: std::io::Error| Refused::new("file", error.to_string(), "a readable file");
        let mut file = files::open_regular(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(Refused::new("file", "0 bytes", formats()));
        }
        let wav = WavHeader::read(&mut file).map_err(unreadable)??;
        let source: Box<dyn MediaSource> = match &wav {
            Some(header) => {
                allowed("header", header.rate, usize::from(header.channels))?;
                Box::new(WavFile::new(file, header))
            }
            None => Box::new(file),
        };
        caught(|| Self::probe(source, path, wav, max_seconds))?
    }

    fn probe(
        source: Box<dyn MediaSource>,
        path: &Path,
        wav: Option<WavHeader>,
        max_seconds: u64,
    ) -> Result<Self, Refused> {
        let mut hint = Hint::new();
        if let Some(suffix) = path.extension().and_then(|suffix| suffix.to_str()) {
            hint.with_extension(suffix);
        }
        let stream = MediaSourceStream::new(source, Default::default());
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| Refused::new("header", describe(&error), formats()))?;
        let stream = Stream::open(&*format, 0, wav, max_seconds)?;
        Ok(Self { format, stream, max_seconds, frames: 0, interleaved: Vec::new() })
    }

    /// Returns the samples a second.
    pub(crate) fn rate(&self) -> u32 {
        self.stream.rate
    }

    /// Returns the number of channels.
    pub(crate) fn channels(&self) -> u16 {
        self.stream.channels
    }

    /// Returns the frames the header claims, if its word is good.
    pub(crate) fn claimed(&self) -> Option<u64> {
        self.stream.claimed
    }

    /// Decodes the next block, which replaces the contents of `block`; `false` at the end.
    ///
    /// # Errors
    /// If a sample is not finite, rate, channels or codec change, the recording is too long, or what is left of it
    /// cannot be read.
    pub(crate) fn next(&mut self, block: &mut Block) -> Result<bool, Refused> {
        block.lost = 0;
        block.mono.clear();
        block.clipped.clear();
        caught(|| self.decode(block))?
    }

    fn decode(&mut self, block: &mut Block) -> Result<bool, Refused> {
        while block.mono.is_empty() {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(false),
                Err(Error::ResetRequired) => {
                    self.next_stream()?;
                    continue;
                }
                // What is cut off ends where it was cut: what was decoded so far stands.
                Err(Error::IoError(error)) if error.raw_os_error().is_none() => return Ok(false),
                Err(error) => {
                    let place = format!("frame {}", self.frames);
                    return Err(Refused::new(place, describe(&error), "a stream that can be read on"));
                }
            };
            if packet.track_id != self.stream.track {
                continue;
            }
            self.note_gap(&packet, block);
            match self.stream.decoder.decode(&packet) {
                Ok(decoded) => {
                    if decoded.spec().rate() != self.stream.rate {
                        let (found, allowed) = (decoded.spec().rate(), self.stream.rate);
                        return Err(changed(self.frames, found, allowed, "Hz"));
                    }
                    let channels = decoded.spec().channels().count();
                    decoded.copy_to_vec_interleaved(&mut self.interleaved);
                    self.mix(channels.max(1), block)?;
                }
                Err(_) => self.lose(packet.dur.get().min(MAX_GAP_S * u64::from(self.stream.rate)), block),
            }
            if self.frames > self.max_seconds * u64::from(self.stream.rate) {
                return Err(too_long(
                    &format!("frame {}", self.frames),
                    self.frames / u64::from(self.stream.rate),
                    self.max_seconds,
                ));
            }
        }
        Ok(true)
    }

    /// Goes on with the stream that the format has come to.
    fn next_stream(&mut self) -> Result<(), Refused> {
        // What streams say of themselves is not used, and would pile up.
        self.format.metadata().skip_to_latest();
        let next = Stream::open(&*self.format, self.frames, None, self.max_seconds)?;
        if next.rate != self.stream.rate {
            return Err(changed(self.frames, next.rate, self.stream.rate, "Hz"));
        }
        if next.channels != self.stream.channels {
            return Err(changed(self.frames, next.channels.into(), self.stream.channels.into(), "channels"));
        }
        self.stream = next;
        Ok(())
    }

    /// Notes frames that the packet's time stamp says are missing before it.
    fn note_gap(&mut self, packet: &Packet, block: &mut Block) {
        let Stream { rate, stamped, begin, claimed, .. } = self.stream;
        let gap = begin.saturating_add(u64::try_from(packet.pts.get()).unwrap_or(0)).saturating_sub(self.frames);
        let plausible = gap <= MAX_GAP_S * u64::from(rate)
            && claimed.is_none_or(|claimed| self.frames + gap + packet.dur.get() <= claimed);
        if stamped && plausible {
            self.lose(gap, block);
        }
    }

    fn lose(&mut self, frames: u64, block: &mut Block) {
        block.lost += frames;
        self.frames += frames;
    }

    /// Mixes what was decoded to one channel.
    fn mix(&mut self, channels: usize, block: &mut Block) -> Result<(), Refused> {
        let scale = 1.0 / channels as f32;
        for (at, frame) in self.interleaved.chunks_exact(channels).enumerate() {
            let mut sum = 0.0;
            for (channel, &sample) in frame.iter().enumerate() {
                if !sample.is_finite() {
                    let place = format!("sample {} of channel {channel}", self.frames + at as u64);
                    return Err(Refused::new(place, sample.to_string(), "finite samples"));
                }
                if sample.abs() >= self.stream.full_scale {
                    block.clipped.push(at as u32);
                }
                sum += sample.clamp(-1.0, 1.0);
            }
            block.mono.push(sum * scale);
        }
        self.frames += block.mono.len() as u64;
        Ok(())
    }
}

/// Returns the least magnitude that the encoding cannot exceed: what is clipped stands there.
fn full_scale(params: &AudioCodecParameters) -> f32 {
    match (params.codec, params.bits_per_sample) {
        // ITU-T G.711: the largest decoded values of 16 bits.
        (CODEC_ID_PCM_MULAW, _) => 32_124.0 / 32_768.0,
        (CODEC_ID_PCM_ALAW, _) => 32_256.0 / 32_768.0,
        // The largest positive value of signed integers; beyond 24 bits an f32 rounds it to 1.
        (codec, Some(bits @ 2..=24)) if codec != CODEC_ID_MP3 && codec != CODEC_ID_VORBIS => {
            1.0 - 2.0_f32.powi(1 - bits as i32)
        }
        _ => 1.0,
    }
}

fn allowed(place: &str, rate: u32, channels: usize) -> Result<(), Refused> {
    if !RATES.contains(&rate) {
        let allowed = format!("{} to {} Hz", RATES.start(), RATES.end());
        return Err(Refused::new(place, format!("{rate} Hz"), allowed));
    }
    if !(1..=MAX_CHANNELS).contains(&channels) {
        return Err(Refused::new(place, format!("{channels} channels"), format!("1 to {MAX_CHANNELS} channels")));
    }
    Ok(())
}

/// Refuses what changes in the middle of a recording.
fn changed(frame: u64, found: u32, allowed: u32, unit: &str) -> Refused {
    Refused::new(format!("frame {frame}"), format!("{found} {unit}"), format!("{allowed} {unit}"))
}

fn too_long(place: &str, seconds: u64, max_seconds: u64) -> Refused {
    Refused::new(place, format!("{seconds} s of audio"), format!("at most {max_seconds} s (max_seconds)"))
}

fn formats() -> &'static str {
    "a recording as WAV, FLAC, MP3 or Ogg Vorbis"
}

fn describe(error: &Error) -> String {
    match error {
        Error::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => "no such header".to_owned(),
        error => error.to_string(),
    }
}

/// Runs a decoder; one that panics has refused the file.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Refused> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Refused::new("stream", "data that breaks the decoder", formats()))
}
