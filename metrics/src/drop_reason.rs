//! Why a packet went no further: a value, counted once where it is made, never a log line.

labels! {
    /// Why a datagram, packet or frame was dropped. The label is the metric's `reason`.
    DropReason {
        /// Neither STUN, DTLS nor SRTP by its first byte (RFC 7983).
        UnknownProtocol = "unknown_protocol",
        /// STUN that does not parse.
        StunMalformed = "stun_malformed",
        /// STUN for a user name nobody has.
        StunUnknownUser = "stun_unknown_user",
        /// STUN whose MESSAGE-INTEGRITY or FINGERPRINT is absent or wrong.
        StunUnauthenticated = "stun_unauthenticated",
        /// DTLS or SRTP from an address that no authenticated STUN check validated.
        AddressNotValidated = "address_not_validated",
        /// DTLS the handshake refused.
        DtlsRefused = "dtls_refused",
        /// DTLS of a handshake, while too much of it or of others waited for its turn.
        HandshakeBacklog = "handshake_backlog",
        /// SRTP or SRTCP before the handshake ended.
        NoKeys = "no_keys",
        /// Shorter than its headers and tag.
        SrtpShort = "srtp_short",
        /// SRTP whose tag is wrong.
        SrtpUnauthenticated = "srtp_unauthenticated",
        /// SRTP with a number already seen or older than the replay window.
        SrtpReplayed = "srtp_replayed",
        /// SRTCP without the E bit, or whose tag is wrong.
        SrtcpUnauthenticated = "srtcp_unauthenticated",
        /// More SSRCs than a session may have.
        TooManySources = "too_many_sources",
        /// RTP that does not parse.
        RtpMalformed = "rtp_malformed",
        /// RTCP that does not parse.
        RtcpMalformed = "rtcp_malformed",
        /// An SSRC or payload type that was not negotiated.
        NotNegotiated = "not_negotiated",
        /// A sequence number the ring already has.
        Duplicate = "duplicate",
        /// Older than the ring keeps.
        TooOld = "too_old",
        /// No payload (padding, probes).
        Empty = "empty",
        /// The track has no source that may send it.
        NoTrack = "no_track",
        /// A subscriber waits for a key frame.
        AwaitKeyFrame = "await_key_frame",
        /// The subscriber did not negotiate the track's codec.
        CodecNotNegotiated = "codec_not_negotiated",
        /// A mailbox to another thread was full.
        MailboxFull = "mailbox_full",
        /// The kernel's send buffer was full.
        SendBufferFull = "send_buffer_full",
        /// The kernel refused the datagram.
        SendFailed = "send_failed",
        /// A frame viewer fell behind the log and was moved to the next key frame.
        ViewerBehind = "viewer_behind",
        /// Lost upstream and not repaired in time, so the frame was not rebuilt.
        FrameIncomplete = "frame_incomplete",
        /// A retransmission that the budget or the resend guard refused.
        ResendRefused = "resend_refused",
        /// A retransmission of something the ring no longer has.
        ResendMissing = "resend_missing",
        /// A frame that no other refers to, for a subscriber whose link takes less than its source sends.
        CongestedDiscardable = "congested_discardable",
        /// A frame for a subscriber whose queue is too old: the next that it gets is a key frame.
        CongestedToKeyFrame = "congested_to_key_frame",
        /// A frame of a temporal layer above those that the subscriber gets.
        TemporalLayer = "temporal_layer",
        /// Longer than a receive slot, so that the kernel cut it.
        Truncated = "truncated",
        /// Its session panicked.
        Panicked = "panicked",
    }
}
