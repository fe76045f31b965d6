/* An ESP32 as a device, on ESP-IDF 5 and its esp-mqtt (docs/device-contract.md).
 *
 *     fleetpush devices add lamp-1          # prints the token, once
 *     cp ../fleetpush-data/tls/ca.pem main/ && idf.py build flash monitor
 *
 * What it keeps to:
 * - Client id and user name are the device id, clean session off, one subscription with QoS 1.
 * - A push has one effect. Its id is in flash (NVS) before the effect; esp-mqtt sends the PUBACK when our handler has
 *   returned. After a power cut in between the push comes again, is known, and a command is answered "interrupted".
 * - Receipts go to esp-mqtt's outbox, which repeats them until they are acknowledged. It is in RAM: a `reboot` waits
 *   until its answer has arrived.
 * - Reconnecting has full jitter; esp-mqtt's own waits the same time on every device.
 * - The buffer takes the largest push of a server with its default limit: esp-mqtt cuts larger ones into pieces.
 *
 * Each push writes 520 bytes of NVS. With the default partition of 24 KiB and 100,000 erasures of a sector that is more
 * than ten million pushes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cJSON.h"
#include "esp_app_desc.h"
#include "esp_event.h"
#include "esp_log.h"
#include "esp_netif.h"
#include "esp_random.h"
#include "esp_system.h"
#include "esp_wifi.h"
#include "freertos/FreeRTOS.h"
#include "freertos/event_groups.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "nvs.h"
#include "nvs_flash.h"

/* A product reads these from NVS, encrypted, where its enrolment has put them. */
#define WIFI_SSID "shop"
#define WIFI_PASSWORD "secret"
#define DEVICE_ID "lamp-1"
#define TOKEN "dev_.."
#define SERVER "mqtts://push.example:8883"

#define TOPIC(leaf) "default/devices/" DEVICE_ID "/" leaf
#define BUFFER_BYTES 4608
#define JOURNAL_PUSHES 64
#define BACKOFF_BASE_MS 1000
#define BACKOFF_CAP_MS 120000
#define DISCONNECTED BIT0

extern const char ca_pem[] asm("_binary_ca_pem_start");

static const char *TAG = "fleetpush";
static esp_mqtt_client_handle_t client;
static EventGroupHandle_t events;
static nvs_handle_t flash;
static int failures;
static int reboot_after = -1; /* identifier of the message after which we reboot */

/* The last pushes that were begun, as hashes of their ids; the newest at `next`. A ring that is one blob is replaced as
 * a whole: NVS has the old one or the new one after a power cut. */
static struct {
    uint32_t next;
    uint32_t finished; /* whether the newest was finished: it is the only one that can have been interrupted */
    uint64_t push[JOURNAL_PUSHES];
} journal;

static uint64_t hash(const char *text)
{
    uint64_t value = 14695981039346656037u; /* FNV-1a */
    for (; *text; text++)
        value = (value ^ (unsigned char)*text) * 1099511628211u;
    return value;
}

static bool journal_save(void)
{
    return nvs_set_blob(flash, "journal", &journal, sizeof journal) == ESP_OK && nvs_commit(flash) == ESP_OK;
}

typedef enum { NEW, INTERRUPTED, FINISHED, NOT_STORED } known_t;

static known_t journal_begin(const char *push_id)
{
    uint64_t id = hash(push_id);
    for (uint32_t n = 0; n < JOURNAL_PUSHES; n++)
        if (journal.push[n] == id)
            return n == journal.next && !journal.finished ? INTERRUPTED : FINISHED;
    journal.next = (journal.next + 1) % JOURNAL_PUSHES;
    journal.push[journal.next] = id;
    journal.finished = 0;
    return journal_save() ? NEW : NOT_STORED;
}

static void journal_finish(void)
{
    journal.finished = 1;
    if (!journal_save())
        ESP_LOGE(TAG, "the journal cannot be written");
}

/* Publishes JSON with QoS 1 and frees it; the message's identifier, below 0 if there is no memory for it. */
static int say(const char *topic, cJSON *body)
{
    char *text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    if (text == NULL)
        return -1;
    int id = esp_mqtt_client_enqueue(client, topic, text, 0, 1, 0, true);
    free(text);
    return id;
}

static int send_receipt(const char *push_id, const char *event, cJSON *result)
{
    cJSON *receipt = cJSON_CreateObject();
    cJSON_AddStringToObject(receipt, "push_id", push_id);
    cJSON_AddStringToObject(receipt, "event", event);
    if (result != NULL)
        cJSON_AddItemToObject(receipt, "result", result);
    return say(TOPIC("receipts"), receipt);
}

static cJSON *failure(const char *words)
{
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "error", words);
    return result;
}

static void send_report(void)
{
    static const char *commands[] = {"identify", "reboot"};
    cJSON *report = cJSON_CreateObject();
    cJSON_AddStringToObject(report, "version", esp_app_get_description()->version);
    cJSON_AddItemToObject(report, "commands", cJSON_CreateStringArray(commands, 2));
    say(TOPIC("report"), report);
}

/* Carries out a command; its result, and whether we reboot when that has arrived. */
static cJSON *obey(const char *command, bool *reboot)
{
    if (command != NULL && strcmp(command, "identify") == 0) {
        ESP_LOGI(TAG, "here I am"); /* blink, beep */
        return cJSON_CreateString("done");
    }
    if (command != NULL && strcmp(command, "reboot") == 0) {
        *reboot = true;
        return cJSON_CreateString("rebooting");
    }
    return failure("unknown command");
}

static void show_push(const char *push_id, const cJSON *push)
{
    const cJSON *notification = cJSON_GetObjectItemCaseSensitive(push, "notification");
    const char *title = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(notification, "title"));
    if (title == NULL)
        return; /* data for the program; kinds and fields that it does not know are ignored */
    ESP_LOGI(TAG, "%s", title); /* show it */
    send_receipt(push_id, "displayed", NULL);
}

static void handle_push(const cJSON *push)
{
    const char *push_id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(push, "push_id"));
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(push, "kind"));
    if (push_id == NULL || kind == NULL)
        return; /* no push */
    bool is_command = strcmp(kind, "command") == 0, reboot = false;
    switch (journal_begin(push_id)) {
    case FINISHED: /* it came twice */
        return;
    case INTERRUPTED:
        if (is_command)
            send_receipt(push_id, "acted", failure("interrupted"));
        break;
    case NOT_STORED: /* flash is worn out: to show something twice is better than never, to open a door is not */
        if (is_command)
            send_receipt(push_id, "acted", failure("the journal cannot be written"));
        else
            show_push(push_id, push);
        return;
    case NEW:
        if (is_command) {
            const cJSON *data = cJSON_GetObjectItemCaseSensitive(push, "data");
            const char *command = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(data, "command"));
            int id = send_receipt(push_id, "acted", obey(command, &reboot));
            if (reboot)
                reboot_after = id;
        } else {
            show_push(push_id, push);
        }
    }
    journal_finish();
}

static void on_mqtt(void *argument, esp_event_base_t base, int32_t id, void *data)
{
    esp_mqtt_event_handle_t event = data;
    switch (event->event_id) {
    case MQTT_EVENT_CONNECTED:
        failures = 0;
        esp_mqtt_client_subscribe_single(client, TOPIC("push"), 1);
        send_report();
        break;
    case MQTT_EVENT_DISCONNECTED:
        xEventGroupSetBits(events, DISCONNECTED);
        break;
    case MQTT_EVENT_PUBLISHED:
        if (event->msg_id == reboot_after)
            esp_restart();
        break;
    case MQTT_EVENT_DATA:
        if (event->current_data_offset != 0 || event->data_len != event->total_data_len) {
            ESP_LOGE(TAG, "a push of %d bytes does not fit", event->total_data_len);
            break;
        }
        cJSON *push = cJSON_ParseWithLength(event->data, event->data_len);
        if (push == NULL)
            ESP_LOGW(TAG, "no JSON: dropped");
        else
            handle_push(push);
        cJSON_Delete(push);
        break;
    default:
        break;
    }
}

static void on_network(void *argument, esp_event_base_t base, int32_t id, void *data)
{
    if (base == WIFI_EVENT && (id == WIFI_EVENT_STA_START || id == WIFI_EVENT_STA_DISCONNECTED))
        esp_wifi_connect();
}

static void start_wifi(void)
{
    ESP_ERROR_CHECK(esp_netif_init());
    ESP_ERROR_CHECK(esp_event_loop_create_default());
    esp_netif_create_default_wifi_sta();
    wifi_init_config_t defaults = WIFI_INIT_CONFIG_DEFAULT();
    ESP_ERROR_CHECK(esp_wifi_init(&defaults));
    ESP_ERROR_CHECK(esp_event_handler_register(WIFI_EVENT, ESP_EVENT_ANY_ID, on_network, NULL));
    wifi_config_t network = {.sta = {.ssid = WIFI_SSID, .password = WIFI_PASSWORD}};
    ESP_ERROR_CHECK(esp_wifi_set_mode(WIFI_MODE_STA));
    ESP_ERROR_CHECK(esp_wifi_set_config(WIFI_IF_STA, &network));
    ESP_ERROR_CHECK(esp_wifi_start());
}

void app_main(void)
{
    ESP_ERROR_CHECK(nvs_flash_init());
    ESP_ERROR_CHECK(nvs_open("fleetpush", NVS_READWRITE, &flash));
    size_t size = sizeof journal;
    if (nvs_get_blob(flash, "journal", &journal, &size) != ESP_OK || size != sizeof journal) {
        memset(&journal, 0, sizeof journal);
        journal.finished = 1;
    }
    events = xEventGroupCreate();
    start_wifi();

    const esp_mqtt_client_config_t config = {
        .broker = {.address.uri = SERVER, .verification.certificate = ca_pem},
        .credentials = {.client_id = DEVICE_ID, .username = DEVICE_ID, .authentication.password = TOKEN},
        .session = {.disable_clean_session = true, .keepalive = 60, .protocol_ver = MQTT_PROTOCOL_V_3_1_1},
        .network.reconnect_timeout_ms = 3600 * 1000, /* the loop below is sooner */
        .buffer.size = BUFFER_BYTES,
    };
    client = esp_mqtt_client_init(&config);
    ESP_ERROR_CHECK(esp_mqtt_client_register_event(client, ESP_EVENT_ANY_ID, on_mqtt, NULL));
    ESP_ERROR_CHECK(esp_mqtt_client_start(client));

    uint32_t away_since = 0;
    while (true) { /* full jitter: after a restart of the server the whole fleet returns, and soon */
        xEventGroupWaitBits(events, DISCONNECTED, pdTRUE, pdTRUE, portMAX_DELAY);
        uint32_t now = esp_log_timestamp();
        if (failures == 0)
            away_since = now;
        uint32_t ceiling = failures < 7 ? BACKOFF_BASE_MS << failures : BACKOFF_CAP_MS;
        uint32_t away = now - away_since > BACKOFF_BASE_MS ? now - away_since : BACKOFF_BASE_MS;
        if (ceiling > away)
            ceiling = away;
        failures++;
        vTaskDelay(pdMS_TO_TICKS(esp_random() % (ceiling + 1)));
        while (esp_mqtt_client_reconnect(client) != ESP_OK) /* it is not waiting yet */
            vTaskDelay(pdMS_TO_TICKS(100));
    }
}
