#!/bin/sh
# A device made of mosquitto's clients, to show how little the contract asks for (docs/device-contract.md).
#
#     fleetpush devices add sign-1          # prints the token, once
#     sh shell_device.sh sign-1 TOKEN [HOST [PORT]]
#
# A server with TLS needs `CAFILE=ca.pem` before it: without, the clients try for ever and say nothing.
#
# mosquitto_sub acknowledges each push: that books it as delivered. Whatever more there is to say is a receipt.
# It prints a push before it acknowledges it, and knows nothing of one it had before: kiosk.py has a journal for that.
set -eu
id=$1 token=$2 host=${3:-127.0.0.1} port=${4:-1883}

# -c: the session stays on the server, so what is pushed meanwhile comes when the device is back.
# It may end when the connection is lost: let a service manager start this script again.
# stdbuf: each push leaves mosquitto_sub as it comes, and not when the pipe is full.
stdbuf -oL mosquitto_sub -h "$host" -p "$port" ${CAFILE:+--cafile "$CAFILE"} -i "$id" -u "$id" -P "$token" \
    -c -q 1 -t "default/devices/$id/push" |
    while IFS= read -r push; do
        printf '%s\n' "$push"
        push_id=$(printf '%s' "$push" | sed -n 's/.*"push_id": *"\([^"]*\)".*/\1/p')
        # A side connection of the same device: another client id, `ID:suffix`, with the same user name and token.
        mosquitto_pub -h "$host" -p "$port" ${CAFILE:+--cafile "$CAFILE"} -i "$id:receipts" -u "$id" -P "$token" -q 1 \
            -t "default/devices/$id/receipts" -m "{\"push_id\": \"$push_id\", \"event\": \"displayed\"}"
    done
