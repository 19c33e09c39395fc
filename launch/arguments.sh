# Shared by the scripts for Google Cloud: reads their arguments, checks them before any command of the cloud runs, and
# reads the table of slices. To be sourced.

LC_ALL=C  # [a-z] means ASCII
launch="$(dirname "${BASH_SOURCE[0]}")"
# A flag of the program. Google's firewall rules for TPUs block JAX's own default, 8482.
# shellcheck disable=SC2034
port=--coordinator_port=8476

# Prints the comment at the top of the script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

refuse() {
    printf 'error: %s\n\n' "$*" >&2
    usage >&2
    exit 2
}

# read_arguments "name= spot" "$@": sets `name` to the value of --name=..., `spot` to yes if there is a --spot, and
# `parsed` to the number of arguments up to the first --, which ends the script's own.
read_arguments() {
    local known=" $1 " argument option
    shift
    parsed=0
    for argument in "$@"; do
        parsed=$((parsed + 1))
        case "$argument" in
            --) return ;;
            --help)
                usage
                exit 0
                ;;
            --*=*) option="${argument%%=*}=" ;;
            --*) option="$argument" ;;
            *) refuse "unexpected argument '$argument'" ;;
        esac
        option="${option#--}"
        [[ "$known" == *" $option "* ]] || refuse "unknown option '$argument'"
        case "$option" in
            *=) printf -v "${option%=}" '%s' "${argument#*=}" ;;
            *) printf -v "$option" yes ;;
        esac
    done
}

# need OPTION...: refuses to go on if one of them is missing.
need() {
    local option
    for option in "$@"; do
        [ -n "${!option}" ] || refuse "--$option=... is missing"
    done
}

# check_name NAME: refuses names that are no DNS label of at most 40 characters. The limit is xpk's: Kubernetes appends
# to the name, and the whole may have 63.
check_name() {
    [[ "$1" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ && ${#1} -le 40 ]] || refuse \
        "--name=$1 is not a DNS label: small letters, digits and hyphens, a letter first, no hyphen last, at most 40"
}

# check_directory OPTION VALUE [OTHERWISE]: refuses a directory that is not in Cloud Storage, where all hosts, and those
# of a new slice, can read and write it.
check_directory() {
    [[ "$2" =~ ^gs://[a-z0-9][-._a-z0-9]+/[^[:space:],]+$ ]] || refuse \
        "--$1=$2 is not in Cloud Storage; wanted gs://BUCKET/DIRECTORY${3:-}"
}

# check_slices COUNT HOSTS: refuses a number of slices that is none, and several slices of one host each, which GKE
# does not join. Sets `several` to the flag of the program, an array: without it a run has one slice.
# shellcheck disable=SC2034  # read by the scripts
check_slices() {
    several=()
    [[ "$1" =~ ^[1-9][0-9]*$ ]] || refuse "--slices=$1 is not a number of slices; --slices=2 would do"
    [ "$1" -gt 1 ] || return 0
    [ "$2" -gt 1 ] || refuse "--slices=$1: $topology has one host, and GKE joins only slices of several"
    several=(--topology="$1 x $topology")
}

# read_slice CONFIG: sets a variable for each column of the tables in slices.txt, for the slice of this config.
# shellcheck disable=SC2034  # read by the scripts
read_slice() {
    local table="$launch/slices.txt"
    topology="$(awk -v config="$1" 'NF == 2 && $1 == config { print $2 }' "$table")"
    [ -n "$topology" ] || refuse "--config=$1 has no slice in launch/slices.txt; there are:" \
        "$(awk 'NF == 2 { print $1 }' "$table" | paste -s -d ' ' -)"
    read -r _ accelerator runtime gke machine hosts chips < <(
        awk -v topology="$topology" 'NF == 7 && $1 == topology' "$table"
    )
}
