//! Warnings about a video.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A defect of a video, or an effect of the sampling, that did not prevent reading frames. The report carries
/// it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// The file ends, or becomes unreadable, before the video is complete.
    BrokenTail {
        /// Seconds up to which the video can be read.
        readable_until: f64,
        /// The reason, without a full stop.
        reason: String,
    },
    /// The container gives no pts for some frames. One full decode derived all times.
    MissingPts,
    /// The decoder refused packets.
    DecodeErrors {
        /// Number of refused packets.
        packets: u64,
    },
    /// Parts of some frames are missing in the file, and the decoder invented them.
    DamagedFrames {
        /// Number of such frames among the returned ones.
        frames: usize,
    },
    /// The last frames of the sampling could not be decoded.
    MissingFrames {
        /// Number of moments without a frame.
        frames: usize,
    },
    /// Every packet from a moment on was decoded, because the decoder did not return the frames that the scan
    /// predicted.
    FullDecode {
        /// The moment, in seconds.
        from: f64,
    },
    /// The picture has transparent parts, and the decoder gives their colours only.
    AlphaIgnored,
    /// The decoder reads only the first frame of an animation (a PNG with 16 bits per channel).
    AnimationIgnored {
        /// Number of frames that were not read.
        frames: usize,
    },
    /// `max_frames` of the sampling removed moments.
    LeftOut {
        /// Number of removed moments.
        frames: usize,
    },
    /// The time of one frame could not be true. The frame moved between the frames around it.
    WrongTime {
        /// Repaired time in seconds.
        at: f64,
        /// Seconds that were added to its time.
        by: f64,
    },
    /// The times of the video begin again, as in recordings that were joined. The later part follows the earlier one.
    TimesRestart {
        /// Repaired time of the later part in seconds.
        at: f64,
        /// Seconds that were added to the times of the later part.
        by: f64,
    },
    /// The times of an MPEG stream jump forward. The later part follows the earlier one.
    TimesJump {
        /// Repaired time of the later part in seconds.
        at: f64,
        /// Seconds that were added to the times of the later part; negative.
        by: f64,
    },
    /// Times were repaired at more places than have warnings of their own.
    MoreRepairs {
        /// Number of further repairs.
        repairs: usize,
    },
    /// Bytes of packets within the video are missing or wrong.
    DamagedPackets {
        /// Number of damaged packets.
        packets: usize,
        /// Time of the first one in seconds.
        from: f64,
    },
    /// The frame size changes within the video. Every frame keeps its own size.
    SizeChanged {
        /// Time of the first frame of the new size, in seconds.
        at: f64,
        /// New width in pixels.
        width: u32,
        /// New height in pixels.
        height: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Warning::BrokenTail { readable_until, reason } => {
                write!(f, "the video can be read up to {readable_until:.3} s only: {reason}")
            }
            Warning::MissingPts => {
                f.write_str("the container gives no times for some frames; they were derived by decoding")
            }
            Warning::DecodeErrors { packets } => write!(f, "{packets} packets did not decode"),
            Warning::DamagedFrames { frames } => {
                write!(f, "parts of {frames} frames are missing in the file")
            }
            Warning::MissingFrames { frames } => write!(f, "{frames} sampled frames did not decode"),
            Warning::FullDecode { from } => write!(f, "every frame from {from:.3} s on had to be decoded"),
            Warning::AnimationIgnored { frames } => {
                write!(f, "{frames} more frames of an animation were not read")
            }
            Warning::AlphaIgnored => {
                f.write_str("transparency is ignored, because the decoder does not return it")
            }
            Warning::LeftOut { frames } => write!(f, "{frames} more frames were left out by max_frames"),
            Warning::WrongTime { at, by } => {
                write!(f, "the frame at {at:.3} s had a wrong time, which was changed by {by:+.3} s")
            }
            Warning::TimesRestart { at, by } => {
                write!(f, "times restart at {at:.3} s; all later times were changed by {by:+.3} s")
            }
            Warning::TimesJump { at, by } => {
                write!(f, "times jump at {at:.3} s; all later times were changed by {by:+.3} s")
            }
            Warning::MoreRepairs { repairs } => write!(f, "times were repaired at {repairs} more places"),
            Warning::DamagedPackets { packets, from } => {
                write!(f, "{packets} packets are damaged, the first at {from:.3} s")
            }
            Warning::SizeChanged { at, width, height } => {
                write!(f, "the frame size changes to {width}x{height} at {at:.3} s")
            }
        }
    }
}
