//! Clips that a player shows in another way than they are stored. The table has the columns of the one above.

pub const CLIPS: &[(&str, &str, &str)] = &[
    (
        "wide_pixels",
        "mp4",
        "-f lavfi -i testsrc2=s=360x288:r=10 -t 3 -vf setsar=16/15 -c:v libx264 -preset fast",
    ),
    ("narrow_pixels", "mkv", "-f lavfi -i testsrc2=s=360x240:r=10 -t 3 -vf setsar=8/9 -c:v mpeg4 -q:v 3"),
    ("wide_pixels_ts", "ts", "-f lavfi -i testsrc2=s=352x288:r=25 -t 2 -aspect 16:9 -c:v mpeg2video -q:v 3"),
    (
        "wide_pixels_stored",
        "mp4",
        "-f lavfi -i testsrc2=s=240x180:r=10 -t 2 -vf setsar=4/3 -c:v libx264 -preset fast",
    ),
    ("wide_pixels_rotated", "mp4", "-i {wide_pixels_stored} -c copy -metadata:s:v rotate=90"),
    (
        "absurd_pixels",
        "mp4",
        "-f lavfi -i testsrc2=s=128x98:r=10 -t 1 -vf setsar=150/1 -c:v libx264 -preset fast",
    ),
    (
        "pq",
        "mp4",
        "-f lavfi -i smptehdbars=s=320x180:r=10 -t 2 -vf \
         format=yuv444p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,\
         zscale=t=smpte2084:p=bt2020:m=bt2020nc:npl=203,format=yuv420p10le -pix_fmt yuv420p10le -c:v libx265 -x265-params \
         log-level=none:crf=4:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc",
    ),
    (
        "pq_full_range",
        "mkv",
        "-f lavfi -i pal75bars=s=256x144:r=10 -t 2 -vf \
         format=yuv444p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,\
         zscale=t=smpte2084:p=bt2020:m=bt2020nc:npl=180:r=full,format=yuv444p10le -pix_fmt yuv444p10le -c:v libx265 \
         -x265-params log-level=none:crf=4:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=full",
    ),
    (
        "pq_8bit",
        "mp4",
        "-f lavfi -i smptebars=s=240x160:r=10 -t 2 -vf \
         format=yuv444p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,\
         zscale=t=smpte2084:p=bt2020:m=bt2020nc:npl=150,format=yuv420p -c:v libx264 -crf 2 -color_primaries bt2020 \
         -color_trc smpte2084 -colorspace bt2020nc",
    ),
    (
        "hlg",
        "mp4",
        "-f lavfi -i smptehdbars=s=336x192:r=10 -t 2 -vf \
         format=yuv444p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,\
         zscale=t=arib-std-b67:p=bt2020:m=bt2020nc:npl=203,format=yuv420p10le -pix_fmt yuv420p10le -c:v libx265 \
         -x265-params log-level=none:crf=4:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc",
    ),
    (
        "hlg_vp9",
        "webm",
        "-f lavfi -i pal100bars=s=272x144:r=10 -t 2 -vf \
         format=yuv444p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709,\
         zscale=t=arib-std-b67:p=bt2020:m=bt2020nc:npl=150,format=yuv420p10le -pix_fmt yuv420p10le -c:v libvpx-vp9 \
         -deadline realtime -cpu-used 8 -crf 4 -b:v 0 -color_primaries bt2020 -color_trc arib-std-b67 -colorspace bt2020nc",
    ),
    (
        "woven_top",
        "mp4",
        "-f lavfi -i testsrc2=s=384x288:r=50 -t 4 -vf tinterlace=mode=interleave_top -c:v libx264 -preset fast -crf 12 \
         -flags +ildct+ilme -x264-params tff=1:keyint=30",
    ),
    (
        "woven_bottom",
        "mkv",
        "-f lavfi -i mandelbrot=s=320x240:r=50 -t 3 -vf \
         scroll=h=0.02,tinterlace=mode=interleave_bottom,fieldorder=bff -c:v libx264 -preset fast -crf 12 -flags \
         +ildct+ilme -x264-params bff=1:keyint=20",
    ),
    (
        "woven_mpeg2",
        "ts",
        "-f lavfi -i testsrc2=s=352x288:r=50 -t 3 -vf scroll=h=0.015,tinterlace=mode=interleave_top -c:v mpeg2video -q:v 2 \
         -bf 2 -flags +ildct+ilme -top 1",
    ),
    (
        "woven_10bit",
        "mp4",
        "-f lavfi -i testsrc2=s=304x208:r=50 -t 3 -vf scroll=h=0.01,tinterlace=mode=interleave_top,format=yuv422p10le \
         -pix_fmt yuv422p10le -c:v libx264 -preset fast -crf 12 -flags +ildct+ilme -x264-params tff=1:keyint=30",
    ),
    (
        "alpha_vp9",
        "webm",
        "-f lavfi -i testsrc2=s=120x88:r=10,format=yuva420p,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='255*X/W' -t 3 \
         -pix_fmt yuva420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -auto-alt-ref 0 -g 9 -b:v 900k",
    ),
    (
        "alpha_vp8",
        "webm",
        "-f lavfi -i color=black:s=96x72:r=10,format=yuva420p,geq=lum=16:cb=128:cr=128:a='255*lt(hypot(X-30-N,Y-36),20)' \
         -t 3 -pix_fmt yuva420p -c:v libvpx -deadline realtime -cpu-used 8 -auto-alt-ref 0 -g 12 -b:v 900k",
    ),
    (
        "alpha_vp9_long_gop",
        "webm",
        "-f lavfi -i testsrc2=s=104x136:r=10,format=yuva420p,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='255*Y/H' -t 2 \
         -pix_fmt yuva420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -auto-alt-ref 0 -b:v 900k",
    ),
    (
        "prores",
        "mov",
        "-f lavfi -i testsrc2=s=206x118:r=24 -t 2 -c:v prores_ks -profile:v 1 -pix_fmt yuv422p10le",
    ),
    (
        "prores_alpha",
        "mov",
        "-f lavfi -i testsrc2=s=122x90:r=10,format=yuva444p10le,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='1023*X/W' \
         -t 1 -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
    ),
    (
        "dnxhd",
        "mov",
        "-f lavfi -i testsrc2=s=256x130:r=25 -t 2 -c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p",
    ),
    ("mpeg_ps", "mpg", "-f lavfi -i testsrc2=s=238x138:r=25 -t 4 -c:v mpeg2video -bf 2 -g 25 -q:v 4 -f vob"),
    (
        "mpeg1_ps",
        "mpg",
        "-f lavfi -i testsrc2=s=226x134:r=25 -t 3 -c:v mpeg1video -bf 2 -g 20 -q:v 4 -f mpeg",
    ),
    ("h263", "3gp", "-f lavfi -i testsrc2=s=176x144:r=15 -t 3 -c:v h263 -q:v 4"),
    ("flv1", "flv", "-f lavfi -i testsrc2=s=214x122:r=20 -t 3 -c:v flv -g 20 -q:v 4"),
    ("h264_flv", "flv", "-f lavfi -i testsrc2=s=218x126:r=25 -t 3 -c:v libx264 -preset fast -g 25"),
    ("theora", "ogv", "-f lavfi -i testsrc2=s=242x142:r=25 -t 3 -c:v libtheora -q:v 7 -g 30"),
    ("wmv2", "wmv", "-f lavfi -i testsrc2=s=246x146:r=25 -t 3 -c:v wmv2 -g 30 -q:v 4"),
    ("wmv1", "wmv", "-f lavfi -i testsrc2=s=250x150:r=25 -t 2 -c:v wmv1 -g 30 -q:v 4"),
    ("divx3", "avi", "-f lavfi -i testsrc2=s=254x154:r=25 -t 3 -c:v msmpeg4 -g 30 -q:v 4"),
    (
        "animated",
        "gif",
        "-f lavfi -i testsrc2=s=97x61:r=10:d=2 -vf split[a][b];[a]palettegen[p];[b][p]paletteuse",
    ),
];
