# Starts a server of another cluster on port 5433 of a machine. Arguments: MAJOR PASSWORD.
set -e
programs=/usr/lib/postgresql/$1/bin
folder=/tmp/other
rm -rf $folder
mkdir $folder
cp /etc/ssl/mitosis/server.crt /etc/ssl/mitosis/server.key $folder
printf '%s' "$2" > $folder/password
chown -R postgres:postgres $folder
cd $folder
become="setpriv --reuid=postgres --regid=postgres --clear-groups"
$become $programs/initdb -D data -U mitosis -A scram-sha-256 --pwfile=password > /dev/null
cat >> data/postgresql.conf <<END
port = 5433
listen_addresses = '*'
unix_socket_directories = '$folder'
ssl = on
ssl_cert_file = '$folder/server.crt'
ssl_key_file = '$folder/server.key'
END
echo 'hostssl all all all scram-sha-256' >> data/pg_hba.conf
$become $programs/pg_ctl -D data -l log -w start > /dev/null || { cat log; exit 1; }
