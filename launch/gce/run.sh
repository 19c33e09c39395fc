#!/usr/bin/env bash
# Starts the program on every host of a slice that launch/gce/create.sh has made. It runs in a container, which
# outlives the connection. A host where it runs already is left alone; after a stop the same command resumes the run.
#
#   bash launch/gce/run.sh --name=my-run --config=tpu_v5p_256 --zone=us-east5-a \
#       --image=us-docker.pkg.dev/PROJECT/REPO/r1v3_jax:1 --inputs=gs://BUCKET/inputs --workdir=gs://BUCKET/my-run
#
#   --inputs        has checkpoints/ and data/, which configs name; each host makes a copy in its memory
#   --workdir       in a bucket with hierarchical namespace, which each host mounts; or a directory that every host
#                   has already, such as --workdir=/mnt/filestore/my-run
#   --internal_ip   reach the hosts by their internal addresses, from a machine in their network
#   -- ...          flags of the program, such as -- --config.grpo.steps=50
set -euo pipefail
source "$(dirname "$0")/../arguments.sh"

name="" config="" zone="" image="" inputs="" workdir="" internal_ip=""
read_arguments "name= config= zone= image= inputs= workdir= internal_ip" "$@"
shift "$parsed"
need name config zone image inputs workdir
check_name "$name"
check_directory inputs "$inputs"
[[ "$workdir" =~ ^/[^[:space:],]+$ ]] ||
    check_directory workdir "$workdir" ", or an absolute path that every host has"
read_slice "$config"

# The functions below run on the hosts: their text is sent there.

# Installs gcsfuse from Google's packages, as its documentation describes.
# shellcheck disable=SC2329
install_gcsfuse() {
    local key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt release
    release="$(lsb_release -c -s)"
    curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $packages gcsfuse-$release main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update
    sudo apt-get install --yes -o DPkg::Lock::Timeout=600 gcsfuse  # a new machine may be updating itself
}

# mount_workdir gs://BUCKET/DIRECTORY: mounts it at /mnt/r1v3_workdir, owned by the user of the image. Metadata are not
# cached, so that hosts see each other's files at once.
# shellcheck disable=SC2329
mount_workdir() {
    local path="${1#gs://}"
    command -v gcsfuse >/dev/null || install_gcsfuse
    if findmnt /mnt/r1v3_workdir >/dev/null; then  # by an earlier run, perhaps from another directory
        sudo umount /mnt/r1v3_workdir
    fi
    sudo mkdir -p /mnt/r1v3_workdir
    sudo gcsfuse --only-dir="${path#*/}" -o allow_other --uid=1000 --gid=1000 \
        --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "${path%%/*}" /mnt/r1v3_workdir
}

# start IMAGE INPUTS WORKDIR FLAG...: copies the inputs and starts the container, unless it runs already.
# shellcheck disable=SC2329
start() {
    local image="$1" inputs="$2" workdir="$3"
    shift 3
    if [ "$(sudo docker inspect --format '{{.State.Running}}' r1v3 2>/dev/null)" = true ]; then
        echo "$(hostname): it runs already"
        return
    fi
    sudo docker rm r1v3 >/dev/null 2>&1 || true  # a container that has ended
    case "${image%%/*}" in
        *.pkg.dev | *gcr.io)
            gcloud auth print-access-token |
                sudo docker login --username=oauth2accesstoken --password-stdin "https://${image%%/*}" >/dev/null
            ;;
    esac
    if [[ "$workdir" == gs://* ]]; then
        mount_workdir "$workdir"
        workdir=/mnt/r1v3_workdir
    fi
    # In memory: the disk of a TPU host is small, and 38B parameters are 77 GB.
    mkdir -p /dev/shm/r1v3_inputs
    gcloud storage rsync "$inputs" /dev/shm/r1v3_inputs --recursive --quiet
    # JAX asks for huge pages on v5e and later.
    echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled >/dev/null
    sudo docker run --detach --name=r1v3 --pull=always --restart=on-failure:10 \
        --privileged --network=host --ulimit=memlock=-1 \
        --volume=/dev/shm/r1v3_inputs:/inputs:ro --workdir=/inputs \
        --mount="type=bind,source=$workdir,target=/workdir" "$image" "$@"  # unlike --volume needs the source
}

gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all ${internal_ip:+--internal-ip} \
    --command="set -eo pipefail; $(declare -f install_gcsfuse mount_workdir start); start $(printf '%q ' \
        "$image" "$inputs" "$workdir" --config="$config" --workdir=/workdir "$port" "$@")"
echo "It runs on $hosts hosts. To see what it prints:"
echo "  bash launch/gce/logs.sh --name=$name --zone=$zone${internal_ip:+ --internal_ip}"
