#!/usr/bin/env bash
# What the head of a cluster needs beside Ray: PostgreSQL, for ledgers and for MLflow, and MLflow's server.
#
#   services.sh install       PostgreSQL by apt-get, where there is none (as root, or by sudo)
#   services.sh up            starts what is not running; may be run at any time, as any user but root
#   services.sh down          stops both; data and passwords stay
#   services.sh environment   what makes searches use them:  eval "$(services.sh environment)"
#
# Both listen on 127.0.0.1 only and ask for a password. Passwords are made once and kept in files that only their owner
# can read: libpq finds its own in ~/.pgpass, MLflow in ~/.mlflow/credentials. None is in a URL or on a command line.
# Like Ray's own processes both outlive the ssh session. After the machine was started again: `up` again.
set -euo pipefail

storage=${TUNESEARCH_STORAGE:-$HOME/runs}            # the searches; MLflow's artifacts go there, too
services=${TUNESEARCH_SERVICES:-$storage/.services}  # databases, secrets, logs: where they outlive the head
postgres_port=${TUNESEARCH_POSTGRES_PORT:-5432}
mlflow_port=${TUNESEARCH_MLFLOW_PORT:-5000}

data=$services/postgresql
sockets=$HOME/.tunesearch  # short, and on this machine: the path of a socket has 107 bytes at most
export PGPASSFILE=${PGPASSFILE:-$HOME/.pgpass}
credentials=$HOME/.mlflow/credentials

fail() {
    echo "services.sh: $1" >&2
    exit 1
}

# Debian and Ubuntu keep PostgreSQL's programs off the path; data are served by the version that made them.
find_postgres() {
    local version='*' found
    if [ -f "$data/PG_VERSION" ]; then version=$(<"$data/PG_VERSION"); fi
    found=$(compgen -G "/usr/lib/postgresql/$version/bin" | sort -V | tail -n 1 || true)
    if [ -n "$found" ]; then PATH=$found:$PATH; fi
    command -v initdb >/dev/null && command -v pg_ctl >/dev/null
}

install() {
    if find_postgres; then return; fi
    command -v apt-get >/dev/null || fail "no apt-get here: install a PostgreSQL server by your system's own means"
    local root=()
    if [ "$(id -u)" != 0 ]; then root=(sudo); fi
    # Else the package starts a server of its own, on the port that ours shall have.
    "${root[@]}" mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' |
        "${root[@]}" tee /etc/postgresql-common/createcluster.d/tunesearch.conf >/dev/null
    "${root[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends postgresql
}

# The content of a file of the services' folder; at random the first time.
secret() {
    local file=$services/$1
    if [ ! -s "$file" ]; then
        head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$file.new"
        mv "$file.new" "$file"
    fi
    cat "$file"
}

up_postgres() {
    find_postgres || fail "there is no PostgreSQL server on this machine: $0 install"
    if [ ! -d "$data" ]; then
        rm -rf "$data.new"
        initdb -D "$data.new" --auth-local=peer --auth-host=scram-sha-256 --encoding=UTF8 --locale=C >/dev/null
        mv "$data.new" "$data"
    fi
    mkdir -p "$sockets"
    if ! pg_isready -q -h "$sockets" -p "$postgres_port"; then
        pg_ctl start -s -w -t 300 -D "$data" -l "$services/postgresql.log" \
            -o "-c listen_addresses=127.0.0.1 -c port=$postgres_port -c unix_socket_directories='$sockets'" ||
            fail "PostgreSQL did not start: $(tail -n 5 "$services/postgresql.log")"
    fi
    local password entry="127.0.0.1:$postgres_port:*:tunesearch"
    password=$(secret postgres_password)
    # The password is set anew each time, so that secrets and database agree whatever happened before.
    psql -X -q -h "$sockets" -p "$postgres_port" -d postgres -v ON_ERROR_STOP=1 <<SQL
SELECT 'CREATE ROLE tunesearch LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tunesearch') \gexec
ALTER ROLE tunesearch PASSWORD '$password';
SELECT format('CREATE DATABASE %I OWNER tunesearch', name)
    FROM unnest(ARRAY['tunesearch', 'mlflow', 'mlflow_auth']) name
    WHERE name NOT IN (SELECT datname FROM pg_database) \gexec
SQL
    { echo "$entry:$password" && { grep -vF "$entry:" "$PGPASSFILE" 2>/dev/null || true; }; } >"$PGPASSFILE.new"
    mv "$PGPASSFILE.new" "$PGPASSFILE"
}

# The process group of our MLflow server, if any of it lives. A number of before the last boot, or of another machine,
# means nothing.
mlflow_group() {
    local group boot
    if read -r group boot 2>/dev/null <"$services/mlflow.pid" && [ "$boot" = "$(this_boot)" ]; then
        ps -eo pgid=,stat= | awk -v group="$group" '$1 == group && $2 !~ /Z/ { print $1; exit }'
    fi
}

this_boot() {
    cat /proc/sys/kernel/random/boot_id
}

stop_mlflow() {
    local group signal waited
    for signal in TERM KILL; do
        for ((waited = 0; waited < 100; waited++)); do
            group=$(mlflow_group)
            if [ -z "$group" ]; then return; fi
            if [ "$waited" = 0 ]; then kill "-$signal" -- "-$group" 2>/dev/null || true; fi
            sleep 0.2
        done
    done
}

mlflow_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$mlflow_port"
    printf 'GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
    read -r -t 10 status <&3 && [[ $status == *" 200 "* ]]
) 2>/dev/null

port_is_taken() (
    exec 3<>"/dev/tcp/127.0.0.1/$mlflow_port"
) 2>/dev/null

up_mlflow() {
    local database=postgresql+psycopg://tunesearch@127.0.0.1:$postgres_port password waited
    command -v mlflow >/dev/null || fail "mlflow is not on the path: activate the environment that tunesearch is in"
    password=$(secret mlflow_password)
    if [ ! -e "$credentials" ]; then  # else they may be a user's own
        mkdir -p "$(dirname "$credentials")"
        printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$password" \
            >"$credentials.new"
        mv "$credentials.new" "$credentials"
    fi
    if [ -n "$(mlflow_group)" ] && mlflow_answers; then return; fi
    stop_mlflow  # of a server that died its workers may live
    for ((waited = 0; waited < 10; waited++)); do  # a killed process may keep its port a moment after it is a zombie
        port_is_taken || break
        sleep 0.5
    done
    if port_is_taken; then
        fail "another program has port $mlflow_port: name one for MLflow by TUNESEARCH_MLFLOW_PORT"
    fi
    cat >"$services/mlflow_auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = $database/mlflow_auth
admin_username = admin
admin_password = $password
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
    MLFLOW_AUTH_CONFIG_PATH=$services/mlflow_auth.ini \
        MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_secret_key) \
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
        setsid nohup mlflow server --app-name basic-auth --host 127.0.0.1 --port "$mlflow_port" --workers 2 \
        --backend-store-uri "$database/mlflow" --artifacts-destination "$storage/mlartifacts" \
        >>"$services/mlflow.log" 2>&1 </dev/null &
    local server=$!
    echo "$server $(this_boot)" >"$services/mlflow.pid"
    for ((waited = 0; waited < 300; waited++)); do
        if mlflow_answers; then return; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    fail "MLflow does not answer on port $mlflow_port: $(tail -n 5 "$services/mlflow.log")"
}

up() {
    [ "$(id -u)" != 0 ] || fail "PostgreSQL does not run as root: call this as an ordinary user"
    mkdir -p "$storage"
    umask 077
    mkdir -p "$services"
    up_postgres
    up_mlflow
    echo "PostgreSQL on 127.0.0.1:$postgres_port, MLflow on http://127.0.0.1:$mlflow_port; passwords in $services"
}

down() {
    stop_mlflow
    find_postgres || true
    if [ -f "$data/postmaster.pid" ]; then pg_ctl stop -s -w -t 300 -m fast -D "$data"; fi
}

environment() {
    echo "export TUNESEARCH_STORAGE=$(printf %q "$storage")"
    echo "export TUNESEARCH_LEDGER=postgresql+psycopg://tunesearch@127.0.0.1:$postgres_port/tunesearch"
    echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow_port"
}

case ${1:-} in
install | up | down | environment) "$1" ;;
*) fail "usage: $0 install|up|down|environment" ;;
esac
