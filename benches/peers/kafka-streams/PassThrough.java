import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;

import com.sun.management.OperatingSystemMXBean;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;

/**
 * A Kafka Streams application that passes records on: the peer of the stage in {@code benches/benches/kafka.rs}.
 *
 * <p>Arguments: servers, application id, input topic, output topic, {@code at_least_once} or {@code exactly_once}, records, records
 * before them that warm the JVM up and are not counted. Prints the seconds from the first record that counts to the moment
 * at which the offset of the last one is committed, and the seconds of CPU of this process meanwhile.
 */
public final class PassThrough {
    private static final long COMMIT_MS = 100;
    /** One a core of the two on which the comparison runs; the topic has four partitions, two for each. */
    private static final int THREADS = 2;

    private PassThrough() {}

    public static void main(String[] args) throws Exception {
        String servers = args[0];
        String application = args[1];
        String input = args[2];
        String output = args[3];
        boolean exactlyOnce = args[4].equals("exactly_once");
        long records = Long.parseLong(args[5]);
        long warmUp = Long.parseLong(args[6]);

        Properties config = new Properties();
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        config.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("kafka-streams").toString());
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, THREADS);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MS);
        config.put(
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                exactlyOnce ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        config.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        config.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // As Driftline reads, whatever the guarantee.
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");

        var os = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        AtomicLong seen = new AtomicLong();
        AtomicLong started = new AtomicLong();
        AtomicLong cpu = new AtomicLong();
        StreamsBuilder builder = new StreamsBuilder();
        builder.<byte[], byte[]>stream(input)
                .peek((key, value) -> {
                    if (seen.incrementAndGet() == warmUp + 1) {
                        started.set(System.nanoTime());
                        cpu.set(os.getProcessCpuTime());
                    }
                })
                .to(output);

        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers));
                KafkaStreams streams = new KafkaStreams(builder.build(), config)) {
            Map<TopicPartition, Long> ends = ends(admin, input);
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
                return null;
            });
            streams.start();
            while (seen.get() < warmUp + records || !committed(admin, application, ends)) {
                Thread.sleep(2);
            }
            double seconds = (System.nanoTime() - started.get()) / 1e9;
            System.out.printf("%.6f %.6f%n", seconds, (os.getProcessCpuTime() - cpu.get()) / 1e9);
        }
    }

    private static Map<TopicPartition, Long> ends(Admin admin, String topic) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        var described = admin.describeTopics(java.util.List.of(topic)).allTopicNames().get().get(topic);
        described.partitions().forEach(it -> asked.put(new TopicPartition(topic, it.partition()), OffsetSpec.latest()));
        Map<TopicPartition, Long> ends = new HashMap<>();
        admin.listOffsets(asked).all().get().forEach((partition, end) -> ends.put(partition, end.offset()));
        return ends;
    }

    /** Whether all is committed. The last offset of a partition is the mark of the transaction that filled it. */
    private static boolean committed(Admin admin, String group, Map<TopicPartition, Long> ends) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        return ends.entrySet().stream().allMatch(end -> {
            OffsetAndMetadata offset = offsets.get(end.getKey());
            return offset != null && offset.offset() >= end.getValue() - 1;
        });
    }
}
