#!/bin/sh
# Makes demo.flv, the clip that `millrace demo` loops: a clock to the frame, and once a second, at the
# same instant, a white flash (top left, 160x160, 3 frames) and a 1 kHz beep (100 ms). Tests measure
# audio/video skew on those two, so change them here and there together.
#
# Needs ffmpeg with libx264 and the DejaVu fonts (Debian: ffmpeg, fonts-dejavu-core), for making only.
#
#   ./make.sh                    8.000 s: 240 video frames and exactly 375 AAC frames, so that it loops without
#                                a seam: AAC frames of 48 kHz fill whole seconds only in multiples of 8 s.
set -eu
cd "$(dirname "$0")"

seconds=${CLIP_SECONDS:-8}
out=${CLIP_OUT:-demo.flv}
fonts=${CLIP_FONTS:-/usr/share/fonts/truetype/dejavu}
bold=$fonts/DejaVuSans-Bold.ttf
sans=$fonts/DejaVuSans.ttf
mono=$fonts/DejaVuSansMono-Bold.ttf
for font in "$bold" "$sans" "$mono"; do
  [ -r "$font" ] || { echo "make.sh: no font $font (install fonts-dejavu-core)" >&2; exit 1; }
done

frames=$((seconds * 30))
# AAC frames (1024 samples of 48 kHz) that start inside the clip.
aac_frames=$(((seconds * 48000 + 1023) / 1024))

# The wheel: a rim, a hub and eight paddles, one of them the hand. Drawn once, then turned once a second.
rim="between(hypot(X-180\,Y-180)\,160\,172)+lt(hypot(X-180\,Y-180)\,26)"
paddles="lt(hypot(X-180\,Y-180)\,176)*(lt(abs(X-180)\,5)+lt(abs(Y-180)\,5)+lt(abs(X-Y)\,7)+lt(abs(X+Y-360)\,7))"
hand="lt(abs(X-180)\,10)*between(Y\,8\,180)"
wheel="color=black:s=360x360:r=30:d=0.03,format=rgba,geq=r='if($hand\,255\,70)':g='if($hand\,176\,132)':b='if($hand\,32\,160)':a='255*min(1\,$rim+$paddles+$hand)',loop=loop=-1:size=1:start=0,setpts=N/30/TB,trim=end_frame=$frames,rotate=a='2*PI*n/30':c=none"

# Ten boxes along the bottom say which second of the round it is.
boxes=""
i=0
while [ $i -lt "$seconds" ]; do
  x=$((60 + i * 1160 / seconds))
  w=$((1160 / seconds - 12))
  boxes="$boxes,drawbox=x=$x:y=650:w=$w:h=24:c=0x17384a:t=fill,drawbox=x=$x:y=650:w=$w:h=24:c=0x46d3c0:t=fill:enable='gte(n\,$((i * 30)))'"
  i=$((i + 1))
done

text="drawtext=fontfile=$bold:text=MILLRACE:fontcolor=white:fontsize=92:x=220:y=44"
text="$text,drawtext=fontfile=$mono:timecode='00\:00\:00\:00':rate=30:text='':fontcolor=white:fontsize=92:x=60:y=290"
text="$text,drawtext=fontfile=$mono:text='frame %{eif\:n\:d\:3}':fontcolor=0x46d3c0:fontsize=44:x=64:y=410"
text="$text,drawtext=fontfile=$sans:text='Flash and beep start together, once a second.':fontcolor=0xb8ccd6:fontsize=28:x=64:y=590"

flash="drawbox=x=0:y=0:w=160:h=160:c=black:t=fill,drawbox=x=0:y=0:w=160:h=160:c=white:t=fill:enable='lt(mod(n\,30)\,3)'"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The audio source runs on past the end, so that the last AAC frame is a whole one; the encoder's
# priming frame (packet 0, at a negative time) and what lies past the end are dropped as packets. Time is then counted from 0 in both tracks, with nothing for the muxer to shift.
ffmpeg -hide_banner -loglevel warning -nostdin -y -fflags +bitexact \
  -f lavfi -i "color=0x0b1d2a:s=1280x720:r=30:d=$seconds" \
  -f lavfi -i "$wheel" \
  -f lavfi -i "aevalsrc='0.5*sin(2*PI*1000*t)*lt(mod(t\,1)\,0.1)|0.5*sin(2*PI*1000*t)*lt(mod(t\,1)\,0.1)':s=48000:d=$((seconds + 1))" \
  -filter_complex "[0:v]$text$boxes[plate];[plate][1:v]overlay=x=850:y=190:shortest=0:format=yuv420,$flash,format=yuv420p,trim=end_frame=$frames[v]" \
  -map "[v]" -map 2:a \
  -c:v libx264 -preset veryslow -profile:v baseline -level 3.1 -crf 22 -maxrate 900k -bufsize 900k \
  -x264-params "keyint=30:min-keyint=30:scenecut=0:bframes=0:threads=1" \
  -bsf:v "filter_units=remove_types=6" \
  -c:a aac -profile:a aac_low -b:a 96k -ar 48000 -ac 2 \
  -bsf:a "noise=amount=0:drop='eq(n\,0)+gt(n\,$aac_frames)'" \
  -flags +bitexact -map_metadata -1 -flvflags no_sequence_end \
  -f flv "$tmp/clip.flv"

mv "$tmp/clip.flv" "$out"
chmod 644 "$out"
