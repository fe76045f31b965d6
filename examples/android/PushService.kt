// A kiosk on Android without Google services: one foreground service that keeps the connection, shows pushes as
// notifications, obeys commands, and says what became of each (docs/device-contract.md).
//
// build.gradle:  implementation "org.eclipse.paho:org.eclipse.paho.client.mqttv3:1.2.5"
// AndroidManifest.xml, permissions: INTERNET, ACCESS_NETWORK_STATE, FOREGROUND_SERVICE, FOREGROUND_SERVICE_SPECIAL_USE,
//     POST_NOTIFICATIONS, WAKE_LOCK, SCHEDULE_EXACT_ALARM, RECEIVE_BOOT_COMPLETED, REQUEST_IGNORE_BATTERY_OPTIMIZATIONS
// <service android:name=".PushService" android:exported="false" android:foregroundServiceType="specialUse">
//     <property android:name="android.app.PROPERTY_SPECIAL_USE_FGS_SUBTYPE" android:value="push without Google"/>
// <receiver android:name=".WakeReceiver" android:exported="false"> with an intent-filter for BOOT_COMPLETED
//
// Doze. A device that is unplugged, still and dark is cut off from the network, whatever its services do:
//  - A kiosk on mains power does not doze. Say so in your device policy, and the rest is for the others.
//  - Exempt the app from battery optimisation: then it keeps network and wake locks in doze. A device owner can do that
//    in its policy; else ask once with ACTION_REQUEST_IGNORE_BATTERY_OPTIMIZATIONS. Some makers have a second list.
//  - Paho's own ping is a Java timer, which stops when the CPU sleeps. AlarmPing uses setExactAndAllowWhileIdle, which
//    doze lets through about every nine minutes: hence KEEP_ALIVE_SECONDS. Without the permission for exact alarms
//    (revocable since Android 12) the ping comes late, the server gives the connection up, and it is made anew.
//  - Do not use dataSync as the service's type: since Android 15 it ends after six hours.
package example.fleetpush

import android.app.*
import android.content.*
import android.content.pm.ServiceInfo
import android.database.sqlite.*
import android.net.*
import android.os.*
import org.eclipse.paho.client.mqttv3.*
import org.eclipse.paho.client.mqttv3.internal.ClientComms
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence
import org.json.*
import java.util.concurrent.*
import kotlin.math.min
import kotlin.random.Random

const val KEEP_ALIVE_SECONDS = 600
const val BACKOFF_BASE_MS = 1_000L
const val BACKOFF_CAP_MS = 120_000L
const val JOURNAL_PUSHES = 10_000
const val WAKE_MS = 10_000L

/** Remembers, over a crash and a power cut, which pushes were begun, and what the server has not yet been told. */
class Journal(context: Context) : SQLiteOpenHelper(context, "fleetpush.db", null, 1) {
    override fun onConfigure(db: SQLiteDatabase) = db.execSQL("PRAGMA synchronous = FULL")

    override fun onCreate(db: SQLiteDatabase) {
        db.execSQL("CREATE TABLE push (no INTEGER PRIMARY KEY, push_id TEXT UNIQUE, finished INTEGER NOT NULL)")
        db.execSQL("CREATE TABLE outbox (no INTEGER PRIMARY KEY AUTOINCREMENT, leaf TEXT NOT NULL, body TEXT NOT NULL)")
    }

    override fun onUpgrade(db: SQLiteDatabase, from: Int, to: Int) = Unit

    enum class Known { NEW, INTERRUPTED, FINISHED }

    /** Note that a push is begun. Commits before its effect: who dies in between does not repeat it. */
    fun begin(pushId: String): Known {
        readableDatabase.rawQuery("SELECT finished FROM push WHERE push_id = ?", arrayOf(pushId)).use {
            if (it.moveToNext()) return if (it.getInt(0) == 1) Known.FINISHED else Known.INTERRUPTED
        }
        writableDatabase.execSQL("INSERT INTO push (push_id, finished) VALUES (?, 0)", arrayOf(pushId))
        writableDatabase.execSQL("DELETE FROM push WHERE no <= (SELECT max(no) FROM push) - $JOURNAL_PUSHES")
        return Known.NEW
    }

    /** Note that a push is finished, together with what is to be said of it. */
    fun finish(pushId: String, receipt: JSONObject?) {
        val db = writableDatabase
        db.beginTransaction()
        try {
            db.execSQL("UPDATE push SET finished = 1 WHERE push_id = ?", arrayOf(pushId))
            if (receipt != null) say("receipts", receipt)
            db.setTransactionSuccessful()
        } finally {
            db.endTransaction()
        }
    }

    fun say(leaf: String, body: JSONObject) =
        writableDatabase.execSQL("INSERT INTO outbox (leaf, body) VALUES (?, ?)", arrayOf(leaf, body.toString()))

    fun oldest(): Triple<Long, String, String>? =
        readableDatabase.rawQuery("SELECT no, leaf, body FROM outbox ORDER BY no LIMIT 1", null).use {
            if (it.moveToNext()) Triple(it.getLong(0), it.getString(1), it.getString(2)) else null
        }

    fun said(no: Long) = writableDatabase.execSQL("DELETE FROM outbox WHERE no = ?", arrayOf(no))
}

/** Pings by exact alarms: a sleeping CPU runs no timers. */
class AlarmPing(private val context: Context) : MqttPingSender {
    private lateinit var comms: ClientComms

    override fun init(comms: ClientComms) { this.comms = comms; current = this }
    override fun start() = schedule(comms.keepAlive)
    override fun stop() = alarms().cancel(intent())

    override fun schedule(delayInMilliseconds: Long) {
        val at = SystemClock.elapsedRealtime() + delayInMilliseconds
        val exact = Build.VERSION.SDK_INT < 31 || alarms().canScheduleExactAlarms()
        if (exact) alarms().setExactAndAllowWhileIdle(AlarmManager.ELAPSED_REALTIME_WAKEUP, at, intent())
        else alarms().setAndAllowWhileIdle(AlarmManager.ELAPSED_REALTIME_WAKEUP, at, intent())
    }

    fun ping() { comms.checkForActivity() }
    private fun alarms() = context.getSystemService(AlarmManager::class.java)
    private fun intent() = PendingIntent.getBroadcast(
        context, 1, Intent(context, WakeReceiver::class.java).setAction("ping"), PendingIntent.FLAG_IMMUTABLE)

    companion object { @Volatile var current: AlarmPing? = null }
}

/** Keep the CPU running until the answer is here, or the push is handled. */
fun stayAwake(context: Context) = context.getSystemService(PowerManager::class.java)
    .newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "fleetpush:push").acquire(WAKE_MS)

/** An alarm, or the end of booting: starts the service if need be, and pings. */
class WakeReceiver : BroadcastReceiver() {
    override fun onReceive(context: Context, intent: Intent) {
        stayAwake(context)
        context.startForegroundService(Intent(context, PushService::class.java))
        if (intent.action == "ping") AlarmPing.current?.ping()
    }
}

class PushService : Service(), MqttCallback {
    // From `fleetpush devices add kiosk-1 --json`, kept by your program; the token in encrypted storage.
    private val deviceId = "kiosk-1"
    private val token = "dev_.."
    private val server = "ssl://push.example:8883"
    private val topic = "default/devices/$deviceId/"

    private val commands = mapOf<String, (JSONObject) -> Any?>(  // name -> what is done; what it returns is the result
        "identify" to { _ -> notifyPerson("identify", "Here I am", ""); "shown" },
        "volume" to { data -> JSONObject().put("percent", data.getInt("percent").coerceIn(0, 100)) },
    )
    private val worker = Executors.newSingleThreadScheduledExecutor()  // owns everything below; one push at a time
    private lateinit var journal: Journal
    private lateinit var client: MqttAsyncClient
    @Volatile private var connection = 0  // an acknowledgement belongs to the connection that its push came by
    private var failures = 0; private var lostAtNs = 0L
    private var retry: ScheduledFuture<*>? = null
    private var sending = false

    override fun onBind(intent: Intent?): IBinder? = null
    override fun onCreate() {
        val channel = NotificationChannel("pushes", "Pushes", NotificationManager.IMPORTANCE_HIGH)
        getSystemService(NotificationManager::class.java).createNotificationChannel(channel)
        val shown = Notification.Builder(this, "pushes").setSmallIcon(android.R.drawable.stat_notify_sync)
            .setContentTitle("Connected to Fleetpush").setOngoing(true).build()
        if (Build.VERSION.SDK_INT >= 34) startForeground(1, shown, ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE)
        else startForeground(1, shown)
        journal = Journal(this)
        // Client id and user name are the device id. Nothing of Paho's is kept: the journal does that.
        client = MqttAsyncClient(server, deviceId, MemoryPersistence(), AlarmPing(this))
        client.setManualAcks(true)  // the acknowledgement leaves when the push is handled, and not before
        client.setCallback(this)
        worker.execute {
            journal.say("report", JSONObject().put("version", "1.0").put("commands", JSONArray(commands.keys)))
            connect()
        }
        getSystemService(ConnectivityManager::class.java).registerDefaultNetworkCallback(
            object : ConnectivityManager.NetworkCallback() {
                override fun onAvailable(network: Network) = worker.execute { failures = 0; connectLater() }
            })
    }

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val pushId = intent?.getStringExtra("push_id")  // a person touched a notification, or a button of it
        if (pushId != null) worker.execute {
            val action = intent.getStringExtra("action")
            journal.say("receipts", receipt(pushId, if (action == null) "opened" else "acted").putOpt("action", action))
            getSystemService(NotificationManager::class.java).cancel(pushId, 2)
            sendNext()
        }
        return START_STICKY
    }

    override fun onDestroy() {
        worker.execute { try { client.disconnectForcibly() } catch (error: MqttException) { } }
        worker.shutdown()
    }

    private fun connect() {
        if (client.isConnected) return
        connection++
        val options = MqttConnectOptions().apply {
            userName = deviceId
            password = token.toCharArray()
            isCleanSession = false  // the session stays on the server: what is pushed meanwhile comes later
            keepAliveInterval = KEEP_ALIVE_SECONDS
            mqttVersion = MqttConnectOptions.MQTT_VERSION_3_1_1  // else Paho falls back to 3.1
            isAutomaticReconnect = false  // it has no jitter
        }
        try {
            client.connect(options, null, object : IMqttActionListener {
                override fun onSuccess(token: IMqttToken) = worker.execute {
                    failures = 0
                    client.subscribe(topic + "push", 1)
                    sending = false
                    sendNext()
                }
                override fun onFailure(token: IMqttToken, error: Throwable) = worker.execute { connectLater() }
            })
        } catch (error: MqttException) {
            connectLater()  // it is connecting already, or still disconnecting
        }
    }

    /** Full jitter, no longer than it has been away: after a restart of the server the whole fleet returns, soon. */
    private fun connectLater() {
        val away = ((System.nanoTime() - lostAtNs) / 1_000_000).coerceIn(BACKOFF_BASE_MS, BACKOFF_CAP_MS)
        val ceiling = min(away, BACKOFF_BASE_MS shl min(failures++, 20))
        retry?.cancel(false)
        retry = worker.schedule(Runnable { connect() }, Random.nextLong(ceiling + 1), TimeUnit.MILLISECONDS)
    }

    override fun connectionLost(cause: Throwable?) = worker.execute { lostAtNs = System.nanoTime(); connectLater() }
    override fun deliveryComplete(token: IMqttDeliveryToken) = Unit

    override fun messageArrived(topic: String, message: MqttMessage) {
        stayAwake(this)
        val cameBy = connection
        worker.execute { handleMessage(message, cameBy) }
    }

    private fun handleMessage(message: MqttMessage, cameBy: Int) {
        try {
            handle(JSONObject(String(message.payload)))
        } catch (error: JSONException) {  // no push: acknowledged, or it would come again for ever
        } catch (error: SQLiteException) {
            return  // a full disk: unacknowledged, so that the server keeps it
        }
        if (cameBy == connection) try {  // on a newer one the identifier is another push's
            client.messageArrivedComplete(message.id, message.qos)
        } catch (error: MqttException) { }  // it has just ended: the push comes again, and is known
        sendNext()
    }

    private fun handle(push: JSONObject) {
        val pushId = push.getString("push_id")
        val known = journal.begin(pushId)
        if (known == Journal.Known.FINISHED) return  // it came twice
        val isCommand = push.optString("kind") == "command"
        val receipt = when {
            known == Journal.Known.INTERRUPTED && isCommand ->
                receipt(pushId, "acted").put("result", JSONObject().put("error", "interrupted"))
            known == Journal.Known.INTERRUPTED -> null  // perhaps it was shown; not again
            isCommand -> receipt(pushId, "acted").put("result", obey(push.optJSONObject("data") ?: JSONObject()))
            push.has("notification") -> { show(push); receipt(pushId, "displayed") }
            else -> null  // data for the program; kinds and fields that it does not know are ignored
        }
        journal.finish(pushId, receipt)
    }

    private fun obey(data: JSONObject): Any = try {
        val name = data.optString("command")
        val command = commands[name]
        if (command == null) JSONObject().put("error", "unknown command '$name'") else command(data) ?: JSONObject.NULL
    } catch (error: Exception) {
        JSONObject().put("error", error.toString())  // a failure is a result, too
    }

    private fun receipt(pushId: String, event: String) = JSONObject().put("push_id", pushId).put("event", event)

    private fun show(push: JSONObject) {
        val notification = push.getJSONObject("notification")
        notifyPerson(push.getString("push_id"), notification.optString("title"), notification.optString("body"),
            notification.optJSONArray("actions"), push.optLong("expires_in", 86_400))
    }

    private fun notifyPerson(id: String, title: String, body: String, actions: JSONArray? = null, seconds: Long = 600) {
        val built = Notification.Builder(this, "pushes").setSmallIcon(android.R.drawable.ic_dialog_info)
            .setContentTitle(title).setContentText(body).setAutoCancel(true).setTimeoutAfter(seconds * 1000)
            .setContentIntent(touched(id, null))
        for (number in 0 until min(actions?.length() ?: 0, 3)) {
            val action = actions!!.getJSONObject(number)
            built.addAction(Notification.Action.Builder(
                null, action.optString("title"), touched(id, action.getString("id"))).build())
        }
        getSystemService(NotificationManager::class.java).notify(id, 2, built.build())
    }

    private fun touched(pushId: String, action: String?): PendingIntent = PendingIntent.getForegroundService(
        this, "$pushId/$action".hashCode(),
        Intent(this, PushService::class.java).putExtra("push_id", pushId).putExtra("action", action),
        PendingIntent.FLAG_IMMUTABLE or PendingIntent.FLAG_UPDATE_CURRENT)

    /** One message on its way at a time: what a person did in order arrives in order, and leaves the outbox last. */
    private fun sendNext() {
        val (no, leaf, body) = journal.oldest() ?: return
        if (sending || !client.isConnected) return
        sending = true
        try {
            client.publish(topic + leaf, body.toByteArray(), 1, false, null, object : IMqttActionListener {
                override fun onSuccess(t: IMqttToken) = worker.execute { journal.said(no); sending = false; sendNext() }
                override fun onFailure(t: IMqttToken, error: Throwable) = worker.execute { sending = false }
            })
        } catch (error: MqttException) { sending = false }  // sent after the next connection
    }
}
