#!/bin/sh
# Sets up what the course needs on this machine; safe to run again, quick when all is there.
#
#   tools/setup.sh             a Python environment, and a way to get a broker
#   tools/setup.sh --no-broker the Python environment alone
#
# It finds a Python, lets tools/bootstrap.py make the environment (.venv, or the conda environment
# of environment.yml), and installs rabbitmq-server where no broker can be had otherwise.
# PYTHON=/path/to/python3 picks the interpreter.
# shellcheck disable=SC2016 # what root's shell shall expand stands in single quotes
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

give_up() { # give_up FAILED TO_DO...
  printf 'setup: %s\n' "$1" >&2
  shift
  for step in "$@"; do printf '  To do: %s\n' "$step" >&2; done
  exit 1
}

# --- What only root may do ----------------------------------------------------------------------

can_be_root() {
  [ "$(id -u)" = 0 ] && return 0
  command -v sudo >/dev/null 2>&1 || return 1
  # Without a terminal sudo can't ask for a password, and would fail with a riddle.
  sudo -n true 2>/dev/null || [ -t 0 ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() { # apt_install PACKAGE...
  say "installing $* with apt-get"
  # Nobody may be there to answer a question; another apt may be at work.
  as_root env DEBIAN_FRONTEND=noninteractive sh -c '
    set -eu
    for package in "$@"; do
      [ -n "$(apt-cache madison "$package" 2>/dev/null)" ] || { apt-get update -qq; break; }
    done
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >/dev/null
  ' sh "$@" </dev/null
}

# Debian starts a broker of its own as it installs the package, on port 5672 and at every boot.
# The course starts private ones, so that one would only hold memory and the port. Where this is
# what brings the package in, it is neither started nor enabled.
apt_install_broker() {
  as_root sh -c '
    set -eu
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || exit 0
    printf "#!/bin/sh\n# labkit-setup: for as long as rabbitmq-server is being installed\nexit 101\n" >"$policy"
    chmod 755 "$policy"
  '
  erlang_was_there=no
  command -v erl >/dev/null 2>&1 && erlang_was_there=yes
  status=0
  apt_install rabbitmq-server || status=$?
  as_root sh -c '
    ! grep -qs "^# labkit-setup" /usr/sbin/policy-rc.d || rm -f /usr/sbin/policy-rc.d
    [ "$1" = 0 ] || exit 0
    if [ -d /run/systemd/system ]; then
      systemctl disable --quiet --now rabbitmq-server.service || true
      [ "$2" = yes ] || systemctl disable --quiet --now epmd.socket epmd.service 2>/dev/null || true
    elif command -v update-rc.d >/dev/null; then
      update-rc.d rabbitmq-server disable >/dev/null 2>&1 || true
    fi
  ' sh "$status" "$erlang_was_there"
  return "$status"
}

# --- A Python -----------------------------------------------------------------------------------

runs() { # runs PYTHON: recent enough, and no shim whose version is not installed
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

makes_environments() { # Debian splits these modules off into python3-venv
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

quick() { # pyenv compiles without a profile unless told to: a quarter to a third slower
  "$1" -c '
import sys, sysconfig
told_to = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
sys.exit("pyenv" in sys.base_prefix and not told_to)' >/dev/null 2>&1
}

pythons() { # every candidate, the best first
  [ -z "${CONDA_PREFIX:-}" ] || echo "$CONDA_PREFIX/bin/python"
  for name in python3.13 python3.12 python3.11 python3.14 python3; do
    # All of them, since the first on the PATH may be a shim that fails.
    echo "$PATH" | tr ':' '\n' | while read -r folder; do
      [ ! -x "$folder/$name" ] || echo "$folder/$name"
    done
  done
}

find_python() { # find_python CHECK...: the first that passes all the checks
  pythons | while read -r candidate; do
    for check in "$@"; do "$check" "$candidate" </dev/null || continue 2; done
    echo "$candidate"
    break
  done
}

choose_python() { # sets python
  if [ -n "${PYTHON:-}" ]; then
    runs "$PYTHON" || give_up "PYTHON=$PYTHON is no Python 3.11 or later." "unset PYTHON, or name another one"
    python=$PYTHON
    return
  fi
  python=$(find_python runs makes_environments quick)
  [ -n "$python" ] || python=$(find_python runs makes_environments)
  [ -z "$python" ] || return 0
  python=$(find_python runs)
  if [ -n "$python" ]; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    missing="$python can't make environments (no venv and ensurepip)."
  else
    package="python3 python3-venv"
    missing="No Python 3.11 or later was found."
  fi
  if command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # $package may be two words
    if can_be_root && apt_install $package; then
      python=$(find_python runs makes_environments)
      [ -z "$python" ] || return 0
    fi
    give_up "$missing" "as an administrator: apt-get install $package" \
      "or with conda: conda env create -f environment.yml && conda activate message-queues" \
      "then run the same command again"
  fi
  give_up "$missing" "install Python 3.11 to 3.14 from python.org, or: brew install python@3.13" \
    "or with conda: conda env create -f environment.yml && conda activate message-queues" \
    "then run the same command again"
}

# --- A broker -----------------------------------------------------------------------------------

install_broker() {
  if command -v apt-get >/dev/null 2>&1 && can_be_root; then
    apt_install_broker && return
  elif [ "$(uname)" = Darwin ] && command -v brew >/dev/null 2>&1; then
    say "installing rabbitmq with Homebrew"
    brew install --quiet rabbitmq && return
  fi
  give_up "No broker is here, and none could be installed." \
    "Docker: install it and see that it runs, https://docs.docker.com/get-docker" \
    "or rabbitmq-server: sudo apt-get install rabbitmq-server (Debian, Ubuntu), brew install rabbitmq (macOS)" \
    "or conda, without an administrator: conda env create -f environment.yml && conda activate message-queues" \
    "or, where somebody runs a broker for you: export LABKIT_AMQP_URL=amqp://user:password@host:5672/vhost" \
    "then run the same command again"
}

# --- All of it ----------------------------------------------------------------------------------

if [ "${CONDA_DEFAULT_ENV:-}" = message-queues ] && [ -n "${CONDA_PREFIX:-}" ]; then
  environment=$CONDA_PREFIX
  python=$CONDA_PREFIX/bin/python
else
  environment=.venv
  # An environment that works needs no other Python; bootstrap.py sees whether it is up to date.
  python=$environment/bin/python
  if ! { runs "$python" && makes_environments "$python"; }; then choose_python; fi
fi
"$python" tools/bootstrap.py "$environment"

if [ "${1:-}" != --no-broker ] && ! "$environment/bin/python" tools/have_broker.py; then
  install_broker
  "$environment/bin/python" tools/have_broker.py || give_up "rabbitmq-server was installed, and can't be found." \
    "see what labkit finds: $environment/bin/labkit doctor"
fi
