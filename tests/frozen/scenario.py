"""What is run on both sides: groups of named calls, one a line, and what is made once for both by the base's code.

A line holds the name of the call and its arguments, in which {in} is the folder of inputs (only read), {w} that of the
group, {out} its {w}/out, and other names stand for `SHORT`. After ``<-`` may follow, separated by semicolons:

module        run ``python -m ARGUMENTS``, not ``bids_semantoks ARGUMENTS``
script END    run the console commands of pyproject.toml whose name ends so
unordered     several processes: lines come in any order
kill SIGNAL PATTERN   send it to the program when it logs something that matches
NAME ...      prepare files by this function of `inputs`

Calls of a group see what earlier ones wrote; groups are independent of each other.
"""

from __future__ import annotations

import inputs

MODEL = "--model random:tiny --n-procs 1"
SHORT = {
    "MODEL": MODEL,
    "demo": f"--atlas Demo457 {MODEL}",
    "signals": "--atlas Demo457 --signals-only --n-procs 1 --participant-label 001 002",
    "one": f"{{in}}/study {{out}} participant --atlas Demo457 {MODEL} --participant-label 001",
    "bad": f"{{w}}/study {{out}} participant --atlas Demo457 {MODEL} --participant-label 001 005",
    "train": "--atlas Demo457 --n-procs 1 --pretrain --encoder-config tiny --epochs 2 --train-batch-size 2",
    "probe": f"{{in}}/series {{out}} group {MODEL} --n-windows 1 --n-repeats 2 --n-permutations 20",
    "small": f"{{in}}/series {{out}} group {MODEL} --n-windows 1 --n-repeats 1 --n-permutations 0 --baselines",
    "scaling": "--encoder-config tiny --epochs 1 --train-batch-size 8 --scaling-seeds 1",
    "surface": f"participant {MODEL} --device cpu --denoise none",
}

INPUTS = """
study        bids_semantoks.demo {in}/study --participants 6 --short <- module; make_files
outputs      {in}/study {in}/outputs participant {demo} <- make_pipelines
parcellated  bids_semantoks.demo {in}/parcellated --participants 3 --short --parcellated --task <- module
series       {in}/series {in}/series_outputs participant --n-windows 1 --min-time 0 --no-band-pass --model random:tiny
"""

GROUPS = {
    "help": """
version        --version
help           --help
module-help    bids_semantoks -h <- module
demo-help      bids_semantoks.demo --help <- module
scripts-help   --help <- script
fetch-atlas    --atlas Nowhere {w}/atlases <- script -fetch
fetch-offline  --atlas Schaefer100 --model none {w}/offline <- script -fetch
""",
    "demo": """
study        bids_semantoks.demo {w}/study --participants 3 --short --seed 3 <- module
parcellated  bids_semantoks.demo {w}/series --participants 2 --short --parcellated --task <- module
again        bids_semantoks.demo {w}/series --participants 1 --short --parcellated <- module
not-empty    bids_semantoks.demo {w} --participants 1 <- module
task         bids_semantoks.demo {w}/x --task <- module
""",
    "participant": """
dry-run           {in}/study {out} participant {demo} --dry-run
first             {in}/study {out} participant {demo}
again             {in}/study {out} participant {demo} -v
dry-run-done      {in}/study {out} participant {demo} --dry-run
other-settings    {one} --denoise 36p
other-windows     {one} --n-windows 3
overwrite         {one} --denoise 36p --overwrite -q
another-model     {one} --denoise 36p --model random:tiny:1
reports-only      {in}/study {out} participant {demo} --reports-only
boilerplate-only  {in}/study {w}/words participant {demo} --boilerplate-only --fd-threshold 0.5
group             {in}/study {out} group {demo}
config-file       {in}/study {w}/config participant --config-file {w}/config.json <- keep_config
""",
    "two-processes": """
participant  {in}/study {out} participant {demo} --n-procs 2 <- unordered
again        {in}/study {out} participant {demo} --reports-only
group        {in}/study {out} group {demo} --n-procs 2 <- unordered
""",
    "signals": """
none          {in}/study {w}/none participant {signals} --denoise none
simple+gsr    {in}/study {w}/gsr participant {signals} --denoise simple+gsr
24p           {in}/study {w}/24p participant {signals} --denoise 24p
36p           {in}/study {w}/36p participant {signals} --denoise 36p
compcor       {in}/study {w}/compcor participant {signals} --denoise compcor
ica_aroma     {in}/study {w}/ica_aroma participant {signals} --denoise ica_aroma
file          {in}/study {w}/file participant {signals} --denoise {in}/denoise.json
fd-threshold  {in}/study {w}/fd participant {signals} --fd-threshold 0.2 --min-time 20 --no-band-pass
band          {in}/study {w}/band participant {signals} --band-pass 0.02 0 --dummy-scans 3 --min-coverage 0.9
raw-signals   {in}/study {out} participant {signals} --save-raw-signals --random-seed 5
group-embeds  {in}/study {out} group {demo} --save-tokens --pooling avg --n-windows 3
too-short     {in}/study {w}/short participant {signals} --min-time 200
""",
    "encoder": """
tokens       {one} --save-tokens --save-raw-signals
pooling      {in}/study {w}/cls participant {demo} --participant-label sub-002 --pooling cls --precision bf16
small        {in}/study {w}/small participant {demo} --model random:small --session-id 1 --n-windows 2
checkpoint   {in}/study {w}/pth participant {demo} --model {in}/checkpoint.pth --participant-label 001
filter       {in}/study {w}/ap participant {demo} --bids-filter-file {in}/filter.json --fd-threshold 0.3
own-outputs  {in}/outputs {w}/own participant {demo} --participant-label 001 003
derivatives  {in}/study {w}/d participant {demo} -d x={in}/study/derivatives/fmriprep --run-id 1 -vv
killed       {in}/study {w}/kill participant {demo} <- kill SIGTERM \\[3/9\\]
interrupted  {in}/study {w}/kill participant {demo} <- kill SIGINT \\[2/
goes-on      {in}/study {w}/kill participant {demo}
""",
    "parcellated": """
participant  {in}/parcellated {out} participant {MODEL} -t rest
task         {in}/parcellated {out} participant {MODEL} --denoise 36p
group        {in}/parcellated {out} group {MODEL}
dry-run      {in}/parcellated {w}/dry participant {MODEL} --dry-run
""",
    "surfaces": """
cifti         {in}/surfaces {out} {surface} --space fsLR --atlas {in}/Small.dlabel.nii
gifti         {in}/surfaces {out} {surface} --space fsaverage5 --atlas {in}/atlas-Small_hemi-L_dseg.label.gii
again         {in}/surfaces {out} {surface} --space fsLR --atlas {in}/Small.dlabel.nii
volume-atlas  {in}/surfaces {w}/none {surface} --space fsLR --atlas Demo457
""",
    "pipelines": """
xcpd        {in}/xcp_d {out} participant {demo}
twice       {in}/xcp_d {w}/twice participant {demo} --denoise 36p
hcp         {in}/hcp {w}/hcp participant {demo} --layout {in}/hcp.json --denoise 24p
hcp-simple  {in}/hcp {w}/simple participant {demo} --layout {in}/hcp.json
""",
    "group": """
dry-run           {in}/study {out} group {demo} --dry-run <- copy outputs out
group             {in}/study {out} group {demo}
another-model     {in}/study {out} group {demo} --model random:tiny:2 --participant-label 001 002
reports-only      {in}/study {out} group {demo} --reports-only
boilerplate-only  {in}/study {out} group {demo} --boilerplate-only
""",
    "pretrain": """
dry-run     {in}/study {out} group {train} --dry-run <- copy outputs out
stopped     {in}/study {out} group {train} --max-hours 1e-9
other       {in}/study {out} group {train} --learning-rate 0.001
signal      {in}/study {out} group {train} <- kill SIGUSR1 Going on from step
goes-on     {in}/study {out} group {train}
finished    {in}/study {out} group {train}
recipe      {in}/study {out} group {train} --encoder-name mine --training-config {in}/recipe.json
use         {in}/study {w}/use participant {demo} --model {out}/encoders/tiny --participant-label 003
batch       {in}/study {out} group {train} --encoder-name x --train-batch-size 9
name        {in}/study {out} group {train} --encoder-name ../x
accumulate  {in}/study {out} group {train} --encoder-name acc --accumulate 2 --checkpoint-every 1
diverged    {in}/study {out} group {train} --encoder-name div --learning-rate 1e12 --epochs 20
""",
    "hdf5": """
dry-run   {in}/study {out} group {train} --pretrain-data {in}/signals.h5 --dry-run
pretrain  {in}/study {out} group {train} --pretrain-data {in}/signals.h5
packing   {in}/study {w}/2 group {train} --pretrain-data {in}/signals.h5 <- kill SIGTERM Packing
stopped   {in}/study {w}/2 group {train} --pretrain-data {in}/signals.h5 --max-hours 1e-9
""",
    "torchrun": """
two  torch.distributed.run --standalone --nproc-per-node 2 -m bids_semantoks {in}/study {out} group {train} \
<- module; unordered; copy outputs out
""",
    "probe": """
all           {probe} --probe age sex <- copy series_outputs out
families      {probe} --probe age --group-by family --covariate sex --baselines covariates pearson chance
sites         {probe} --probe sex --leave-out site --baselines tangent motion
sessions      {probe} --probe mood --baselines pearson
paper         {probe} --probe age --protocol paper --n-bins 2 --baselines pearson
splits        {probe} --probe age --splits {out}/group_splits.tsv --protocol paper --baselines none
phenotype     {probe} --probe score --phenotype {in}/scores.tsv --probe-kind regression --baselines site
reports-only  {in}/series {out} group {MODEL} --reports-only
unknown       {probe} --probe agee
nothing       {probe} --group-by site
""",
    "probe-extras": """
importance     {small} random --probe age --network-importance <- copy series_outputs out
finetune       {small} random --probe age --finetune --finetune-epochs 1
blocks         {in}/series {out} group {MODEL} --n-windows 1 --task-blocks trial_type --n-repeats 2
blocks-probe   {small} none --task-blocks trial_type --probe age --group-by family
replicates     {small} random --probe sex --replicates random:tiny:1 random:tiny:2
scaling        {small} random --probe age sex --scaling 0.8 1 {scaling}
scaling-again  {small} random --probe age --scaling 0.8 1 {scaling}
scaling-small  {small} random --probe age --scaling 0.1 {scaling}
scaling-study  {small} random --probe age --scaling 1 {scaling} -d other={in}/series_outputs
""",
    "bad-call": """
unknown-option  --no-such-option
unknown-level   a b session
no-arguments    -q
absent          {w}/absent {out} participant {demo} <- make_roots
file            {w}/file {out} participant {demo}
empty           {w}/empty {out} participant {demo}
not-bids        {w}/not-bids {out} participant {demo}
broken-json     {w}/broken-json {out} participant {demo}
participant     {in}/study {out} participant {demo} --participant-label 001 0004
nobody          {in}/study {out} participant {demo} --exclude-participant-label 001 002 003 004 005 006
session         {in}/study {out} participant {demo} --session-id 3
task            {in}/study {out} participant {demo} --task-id rset
run             {in}/study {out} participant {demo} --run-id 9
space           {in}/study {out} participant {demo} --space MNI152NLin2009Asym
filter          {in}/study {out} participant {demo} --bids-filter-file {in}/multiband.json
filter-text     {in}/study {out} participant {demo} --bids-filter-file {in}/text.json
atlas           {in}/study {out} participant {demo} --atlas Demo475
atlas-hub       {in}/study {out} participant {demo} --atlas Schaefer400
device          {in}/study {out} participant {demo} --device cuda:7
device-name     {in}/study {out} participant {demo} --device tpu
band            {in}/study {out} participant {demo} --band-pass 0.2 0.1
windows         {in}/study {out} participant {demo} --n-windows 0
config          {in}/study {out} participant {demo} --config-file {in}/text.json
work            {in}/study {out} participant {demo} -w {in}/study/derivatives/fmriprep/work
denoise         {in}/study {out} participant {demo} --denoise 37p
mem             {in}/study {out} participant {demo} --mem much
model-absent    {in}/study {out} participant {demo} --model {w}/absent.pth
model-name      {in}/study {out} participant {demo} --model random:huge
model-text      {in}/study {out} participant {demo} --model {in}/text.json
model-cut       {in}/study {out} participant {demo} --model {in}/truncated.pth
model-pickle    {in}/study {out} participant {demo} --model {in}/pickle.pth
model-hub       {in}/study {out} participant {demo} --model SamGijsen/Brain-Semantoks
out-study       {in}/study {in}/study participant {demo}
out-fmriprep    {in}/study {in}/study/derivatives/fmriprep/x participant {demo}
out-sub         {in}/study {in}/study/sub-001/x participant {demo}
out-beside      {in}/study {in}/study/elsewhere participant {demo}
out-file        {in}/study {in}/text.json/out participant {demo}
nothing         {in}/study {out} group {demo} <- copy outputs o
group-label     {in}/study {w}/o group {demo} --participant-label 999
group-space     {in}/study {w}/o group {demo} --space fsLR
group-atlas     {in}/study {w}/o group {demo} --atlas Schaefer400
group-alone     {in}/study {w}/o group {demo} --encoder-config tiny --epochs 2
group-device    {in}/study {w}/o group {train} --device cuda:7
group-huge      {in}/study {w}/o group {train} --encoder-config huge
group-h5        {in}/study {w}/o group {train} --pretrain-data nowhere.h5
""",
    "bad-run": "\n".join(f"{name} {{bad}} <- spoil {name}" for name in inputs.RUNS)
    + """
crash    {w}/study {w}/crash participant {demo} --stop-on-first-crash <- spoil no-mask
ignored  {w}/study {w}/crash participant {demo} --ignore-failed-runs
group    {w}/study {w}/crash group {demo}
""",
    "bad-atlas": """
whole     {one} --atlas {w}/tpl-MNI152NLin2009cAsym_atlas-Demo457_dseg.nii.gz <- make_atlases
space     {one} --atlas {w}/tpl-MNIPediatricAsym_atlas-Demo457_dseg.nii.gz
labels    {one} --atlas {w}/tpl-MNI152NLin2009cAsym_atlas-Cut_dseg.nii.gz
far       {one} --atlas {w}/tpl-MNI152NLin2009cAsym_atlas-Far_dseg.nii.gz
networks  {one} --atlas {w}/tpl-MNI152NLin2009cAsym_atlas-Net_dseg.nii.gz --model {in}/checkpoint.pth
""",
}
