#!/bin/sh
# Makes the missing clips of the benchmark in DIR: 720p, 120 s, x264 medium, crf 30, a moving test picture with noise.
# `cuts` inverts the picture every 4.3 s, and x264 places key frames there. `vfr` is a recording of a screen: 6 of 20 s
# move, else there is a frame every 5 s.
set -eu
dir=${1:?usage: clips.sh DIR}
mkdir -p "$dir"

clip() { # name, frame rate, filter, x264 options
    [ -s "$dir/$1.mp4" ] && return
    # shellcheck disable=SC2086
    ffmpeg -nostdin -v error -y -f lavfi -i "testsrc2=size=1280x720:rate=$2,noise=alls=6:allf=t$3" -t 120 \
        -c:v libx264 -preset medium -crf 30 -pix_fmt yuv420p -threads 2 $4 -f mp4 "$dir/$1.part"
    mv "$dir/$1.part" "$dir/$1.mp4"
}

clip gop250 30 "" "-g 250 -keyint_min 250 -sc_threshold 0"
clip gop60 30 "" "-g 60 -keyint_min 60 -sc_threshold 0"
clip gop30 30 "" "-g 30 -keyint_min 30 -sc_threshold 0"
clip cuts 30 ",negate=enable='lt(mod(t,8.6),4.3)'" "-g 250"
clip ntsc60 30000/1001 "" "-g 60 -keyint_min 60 -sc_threshold 0"
clip ntsc30 30000/1001 "" "-g 30 -keyint_min 30 -sc_threshold 0"
clip vfr 30 ",select='lt(mod(t,20),6)+not(mod(n,150))'" "-g 250 -vsync vfr"
